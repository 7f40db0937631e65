"""Who the people of users' LoRAs are: checkpoints of one training, copies, and the table people.csv."""

import shutil
import unicodedata

import pytest
from brought_loras import assert_is, by_name, collector, kohya, middle_layout

from w2wpp.files.errors import InputError
from w2wpp.ingest.folder import scan_folder
from w2wpp.ingest.people import read_listed
from w2wpp.lora.layout import WeightLayout


@pytest.fixture
def layout(sd15_base) -> WeightLayout:
    return middle_layout(sd15_base)


@pytest.fixture
def collected(tmp_path, sd15_base, monkeypatch):
    return collector(tmp_path, sd15_base, monkeypatch)


def test_checkpoints_are_one_person(tmp_path, layout, collected):
    folder = tmp_path / "loras"
    for person in range(5):
        for step, part in enumerate(("checkpoint-500", "checkpoint-1000", ".")):
            kohya(folder / f"p{person}" / part / "pytorch_lora_weights.safetensors", layout, 10 * person + step)
    for step, name in enumerate(("anna-000010", "anna-000002", "anna-step00000100")):
        kohya(folder / f"{name}.safetensors", layout, 100 + step)
    kohya(folder / "bert_000000500.safetensors", layout, 110)
    kohya(folder / "bert_000001000.safetensors", layout, 111)
    (folder / "bert_000001000.safetensors").write_bytes((folder / "bert_000001000.safetensors").read_bytes()[:-9])
    tables, data = collected(folder, max_quarantined=0.2)
    manifest = tables["manifest"].set_index("person")
    assert manifest["lora"].to_dict() == {
        **{f"p{person}": f"p{person}/pytorch_lora_weights.safetensors" for person in range(5)},
        "anna": "anna-step00000100.safetensors",
        "bert": "bert_000000500.safetensors",
    }
    assert manifest["checkpoints"].to_dict() == {**{f"p{person}": 3 for person in range(5)}, "anna": 3, "bert": 2}
    assert tables["quarantine"]["lora"].tolist() == ["bert_000001000.safetensors"]
    assert set(tables["others"]["reason"]) == {
        f"another checkpoint of the training of {name}" for name in manifest["lora"] if "bert" not in name
    }
    vectors = by_name(data)
    assert_is(vectors["p3"], layout, 32, 0.75)
    assert_is(vectors["anna"], layout, 102, 0.75)

    tables, _ = collected(folder, max_quarantined=0.2, checkpoints="all")
    manifest = tables["manifest"]
    assert manifest["person"].value_counts().to_dict() == {
        "anna": 3,
        "bert": 1,
        "p0": 3,
        "p1": 3,
        "p2": 3,
        "p3": 3,
        "p4": 3,
    }
    assert manifest.groupby("person")["split"].nunique().max() == 1

    (folder / "people.csv").write_text(
        "file;person\np0\\checkpoint-500\\pytorch_lora_weights.safetensors;Ann\nanna-000002.safetensors;Ann\n"
        "anna-000010.safetensors;Ann\n",
        "utf-16",
    )
    tables, _ = collected(folder, max_quarantined=0.2)
    manifest = tables["manifest"]
    assert sorted(manifest["lora"][manifest["person"] == "Ann"]) == [
        "anna-000002.safetensors",
        "anna-000010.safetensors",
        "p0/checkpoint-500/pytorch_lora_weights.safetensors",
    ]
    assert len(manifest) == 3 + 4 + 1 and "anna" not in set(manifest["person"])


def test_numbers_that_could_be_people_are_asked_about(tmp_path, layout):
    kohya(tmp_path / "a-000000.safetensors", layout, 0)
    for number in range(1, 52):
        shutil.copy(tmp_path / "a-000000.safetensors", tmp_path / f"a-{number:06d}.safetensors")
    with pytest.raises(InputError, match=r"a-000000.*one of 52 files that are numbered as checkpoints.*people.csv"):
        scan_folder(tmp_path, layout)
    listed = {f"a-{number:06d}.safetensors" for number in range(52)}
    assert len(scan_folder(tmp_path, layout, listed=listed).duplicates) == 51
    kohya(tmp_path / "a.safetensors", layout, 1)
    assert list(scan_folder(tmp_path, layout).accepted) == ["a.safetensors"]


def test_copies_are_told(tmp_path, layout, collected):
    for name in "abcd":
        kohya(tmp_path / f"loras/{name}.safetensors", layout, 0)
    with pytest.raises(SystemExit, match=r"1 LoRA can be read, too few for a zoo; 3 are copies of a\.safetensors\."):
        collected(tmp_path / "loras")
    kohya(tmp_path / "loras/p/checkpoint-5/pytorch_lora_weights.safetensors", layout, 1)
    kohya(tmp_path / "loras/p/pytorch_lora_weights.safetensors", layout, 2)
    with pytest.raises(SystemExit, match=r"2 LoRAs can be read, .*; further checkpoints of these trainings: 1\."):
        collected(tmp_path / "loras")


@pytest.mark.parametrize(
    ("content", "listed"),
    [
        ("file,person\nJosé.safetensors,José\n", {"José.safetensors": "José"}),
        ("file;person\nJosé.safetensors;Müller, José\n", {"José.safetensors": "Müller, José"}),
        ("Person\tFile\tnote\r\nAnna\t./a\\b.safetensors\tx\r\n\r\n", {"a/b.safetensors": "Anna"}),
        ('\ufeffsep=;\nfile;person\n"x;y";"Ann"\n', {"x;y": "Ann"}),
        ("file|person\na|b", {"a": "b"}),
        ("file,person\n", {}),
    ],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_tables_of_people(tmp_path, content, listed, form):
    (tmp_path / "people.csv").write_text(unicodedata.normalize(form, content), "utf-8", newline="")
    assert read_listed(tmp_path / "people.csv") == listed


@pytest.mark.parametrize(
    ("content", "key", "words"),
    [
        (
            b"file,person\np,anna\nq,carl\np,bert\n",
            "file",
            "'p' is in line 2, of 'anna', and in line 4, of 'bert'. Keep",
        ),
        (b"file,person\np,anna\np,anna\n", "file", "line 2, of 'anna', and in line 3"),
        (b"file,person\nJos\xe9,x\n", None, "not in UTF-8"),
        (b"name,person\n", "file", "column missing"),
        (b'file,person\n"p,anna\n', None, "not a sound CSV"),
        (b"file,person\np\n", "person", "'' in line 2, expected a"),
        (b"", "file", "column missing"),
    ],
)
def test_tables_of_people_that_are_wrong(tmp_path, content, key, words):
    (tmp_path / "people.csv").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_listed(tmp_path / "people.csv")
    assert caught.value.key == key
    assert words in str(caught.value)


def test_names_are_matched_however_accents_are_written(tmp_path, layout, collected):
    for number, name in enumerate(("José", "Zoë", "Åsa", "Ω", "e", "f")):
        kohya(tmp_path / "loras" / f"{unicodedata.normalize('NFD', name)}.safetensors", layout, number)
    (tmp_path / "loras/people.csv").write_text("file,person\nJosé.safetensors,J\nÅsa.safetensors,Å\n")
    tables, _ = collected(tmp_path / "loras")
    assert set(tables["manifest"]["person"]) == {"J", "Zoë", "Å", "Ω", "e", "f"}
    (tmp_path / "loras/people.csv").write_text("file,person\n._x.safetensors,J\n")
    (tmp_path / "loras/._x.safetensors").touch()
    with pytest.raises(SystemExit, match=r"'\._x\.safetensors' \(what macOS keeps.*expected a LoRA of the folder"):
        collected(tmp_path / "loras")
