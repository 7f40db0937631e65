"""Grouping of files into trainings and people, by the names of trainers and users."""

import pytest

from w2wpp.ingest.checkpoints import find_trainings


def names(*stems):
    return {f"{stem}.safetensors": {} for stem in stems}


@pytest.mark.parametrize(
    ("files", "person", "last", "numbered"),
    [
        (
            names("a/checkpoint-500/pytorch_lora_weights", "a/checkpoint-1500-rolling/pytorch_lora_weights"),
            "a",
            [],
            ["a/checkpoint-500/pytorch_lora_weights", "a/checkpoint-1500-rolling/pytorch_lora_weights"],
        ),
        (
            names("a/epoch2/unet/adapter_model", "a/epoch10/unet/adapter_model"),
            "a",
            [],
            ["a/epoch2/unet/adapter_model", "a/epoch10/unet/adapter_model"],
        ),
        (names("a", "a-000010", "a-000002", "a-step00000005"), "a", ["a"], ["a-000002", "a-step00000005", "a-000010"]),
        (
            names("x/last", "x/epoch-000002", "x/at-step00000010"),
            "x",
            ["x/last"],
            ["x/epoch-000002", "x/at-step00000010"],
        ),
        (names("x/a_000001000", "x/a_000000500", "x/a"), "x/a", ["x/a"], ["x/a_000000500", "x/a_000001000"]),
        (
            names(
                "w/a", "w/save/2024-05-01_12-30-00-save-500-10-0", "w/backup/2024-05-01_12-30-00-backup-9-0-9/lora/lora"
            ),
            "w",
            ["w/a"],
            ["w/backup/2024-05-01_12-30-00-backup-9-0-9/lora/lora", "w/save/2024-05-01_12-30-00-save-500-10-0"],
        ),
        (
            names("lora_e0_s500", "lora_e1_s1000", "lora_final"),
            "lora",
            ["lora_final"],
            ["lora_e0_s500", "lora_e1_s1000"],
        ),
        (names("a epoch 10", "a epoch 9"), "a", [], ["a epoch 9", "a epoch 10"]),
        (names("a_500", "a_1500", "a_1000"), "a", [], ["a_500", "a_1000", "a_1500"]),
        (names("a", "a_123"), "a", ["a"], ["a_123"]),
        (names("a/checkpoints/step-20", "a/whatever"), "a", ["a/whatever"], ["a/checkpoints/step-20"]),
        (
            names("checkpoint-5/pytorch_lora_weights", "pytorch_lora_weights"),
            "pytorch_lora_weights",
            ["pytorch_lora_weights"],
            ["checkpoint-5/pytorch_lora_weights"],
        ),
        (
            {name: {"ss_session_id": "7", "ss_training_started_at": "1.5"} for name in names("b", "a early")},
            "a early",
            ["a early", "b"],
            [],
        ),
        ({"a_7.safetensors": {}, "a_008.safetensors": {"ss_output_name": "a"}, "a.safetensors": {}}, None, None, None),
    ],
)
def test_names_of_one_training(files, person, last, numbered):
    trainings = find_trainings(files)
    if person is None:
        assert {each.person for each in trainings} == {"a", "a_7"}
        return
    (training,) = trainings
    assert training.person == person
    assert [name.removesuffix(".safetensors") for name in training.last] == last
    assert [name.removesuffix(".safetensors") for name in training.numbered] == numbered


@pytest.mark.parametrize(
    "files",
    [
        names("00", "01", "02"),
        names("person 1", "person 2"),
        names("id_7", "id_8"),
        names("a/x", "b/x"),
        names("a", "a2"),
        names("loras/epoch-10/a", "loras/epoch-10/b"),
        names("v1.5", "v1.4"),
        names("a/x/checkpoint-5/y", "a/z", "a/q"),
        {name: {"ss_output_name": name.removesuffix(".safetensors")} for name in names("id-000001", "id-000002")},
        {name: {"ss_session_id": "7"} for name in names("a", "b")},
    ],
)
def test_names_of_several_people(files):
    trainings = find_trainings(files)
    assert [each.names for each in trainings] == [(name,) for name in sorted(files)]
    assert len({each.person for each in trainings}) == len(files)
