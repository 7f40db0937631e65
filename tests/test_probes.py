"""The probe classifies pictures, learns nothing from pictures without a label, and counts obeyed prompts."""

import pytest
import torch

from w2wpp.diffusion.prompts import IDENTITY_TOKEN
from w2wpp.files.errors import InputError
from w2wpp.world.captions import CAPTION_WORDS
from w2wpp.world.factors import FACTORS, PHOTO_FACTORS, PROMPTED_FACTORS, QUANTITIES
from w2wpp.world.people import BACKGROUNDS, EXPRESSIONS
from w2wpp.world.populations import sample_people
from w2wpp.world.probes import (
    IGNORED,
    accuracy,
    labels_of,
    load_probe,
    obedience,
    quantity_errors,
    save_probe,
    train_probe,
)

SIZE = 32
COLORS = torch.tensor(list(BACKGROUNDS.values()))


def plain(choices: torch.Tensor, seed: int) -> torch.Tensor:
    """Noisy pictures uint8 [n, 32, 32, 3] in the colours of the backgrounds chosen [n]."""
    noise = 0.03 * torch.randn(len(choices), SIZE, SIZE, 3, generator=torch.Generator().manual_seed(seed))
    return ((COLORS[choices][:, None, None] + noise).clamp(0, 1) * 255).to(torch.uint8)


@pytest.fixture(scope="module")
def labels() -> dict[str, torch.Tensor]:
    """Only the background is labelled, and of every fifth picture nothing."""
    background = torch.arange(120) % len(COLORS)
    nothing = torch.full((120,), IGNORED)
    return (
        {name: nothing for name in FACTORS}
        | {name: torch.zeros(120) for name in QUANTITIES}
        | {
            "background": background.masked_fill(
                background.new_tensor([i % 5 == 0 for i in range(120)]).bool(), IGNORED
            )
        }
    )


@pytest.fixture(scope="module")
def probe(labels):
    return train_probe(plain(torch.arange(120) % len(COLORS), 0), labels, 80, 0)


def test_probe_reads_new_pictures(probe):
    truth = torch.arange(30) % len(COLORS)
    assert accuracy(probe, plain(truth, 1), {"background": truth})["background"] > 0.9
    assert all(torch.isfinite(value).all() for value in probe.state_dict().values())


def test_accuracy_counts_labelled_pictures_alone(probe):
    truth = torch.arange(30) % len(COLORS)
    read = probe.read(plain(truth, 1), "background")
    half = torch.where(torch.arange(30) < 15, read, IGNORED)
    assert accuracy(probe, plain(truth, 1), {"background": half, "age": torch.full((30,), IGNORED)}) == {
        "background": 1.0
    }


def test_obedience_is_the_share_of_pictures_that_show_what_was_asked(probe):
    requested = []

    def draw(prompts):
        requested.extend(prompts)
        names = [name for prompt in prompts for name in BACKGROUNDS if name in prompt]
        choices = torch.tensor([list(BACKGROUNDS).index(name) for name in names])
        wrong = (choices + 1) % len(COLORS)
        return torch.stack([plain(choices, 2), plain(choices, 3), plain(wrong, 4), plain(choices, 5)], 1)

    shares = obedience(probe, {"background": PHOTO_FACTORS["background"]}, draw, "sks")
    assert shares["background"] == pytest.approx(0.75, abs=0.1)
    assert requested[0] == "a photo of sks person, on a white background"


def test_labels_are_the_factors_of_each_photo():
    people = sample_people(0, "probe", 40, 3)
    labels = labels_of(people)
    assert {len(each) for each in labels.values()} == {120}
    for row, (identity, nuisance) in enumerate((i, n) for i, nuisances in people for n in nuisances):
        assert list(BACKGROUNDS)[labels["background"][row]] == nuisance.background
        assert labels["yaw"][row] == pytest.approx(nuisance.yaw, abs=1e-4)
        assert labels["light"][row] == pytest.approx(nuisance.light_azimuth, abs=1e-4)
        sex = labels["sex"][row]
        assert sex == (0 if identity.gender < 0.35 else 1 if identity.gender > 0.65 else IGNORED)
        assert EXPRESSIONS[labels["expression"][row]] == nuisance.expression
        age = labels["age"][row]
        assert age == (
            0 if identity.age < 0.3 else 2 if identity.age >= 0.82 else 1 if 0.4 <= identity.age < 0.7 else IGNORED
        )


def test_every_word_of_a_prompt_is_a_word_of_captions(pipe):
    known = {f"{word}</w>" for word in [*CAPTION_WORDS, IDENTITY_TOKEN]}
    for factor in PROMPTED_FACTORS.values():
        assert set(factor.requests) <= set(factor.choices)
        for value in factor.requests:
            for subject in ("a", IDENTITY_TOKEN):
                assert set(pipe.tokenizer.tokenize(factor.prompt(value, subject))) <= known


def test_probe_measures_pose_and_knows_its_mirror_image():
    # A bright half on the left or on the right says which way a face turns.
    turned = torch.where(torch.arange(120) % 2 == 0, -11.0, 11.0)
    images = torch.full((120, SIZE, SIZE, 3), 40, dtype=torch.uint8)
    images[turned > 0, :, SIZE // 2 :] = 200
    images[turned < 0, :, : SIZE // 2] = 200
    nothing = {name: torch.full((120,), IGNORED) for name in FACTORS}
    labels = nothing | {"yaw": turned, "light": torch.zeros(120)}
    probe = train_probe(images, labels, 120, 0)
    assert quantity_errors(probe, images, labels)["yaw"] < 3
    assert quantity_errors(probe, images.flip(2), labels)["yaw"] > 15


def test_probe_round_trip(probe, tmp_path):
    save_probe(tmp_path / "probe.safetensors", probe)
    loaded = load_probe(tmp_path / "probe.safetensors", SIZE)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in probe.state_dict().items())
    with pytest.raises(InputError) as caught:
        load_probe(tmp_path / "probe.safetensors", 64)
    assert caught.value.where.endswith("probe.safetensors")
