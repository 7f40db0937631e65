"""Shards return the written rows, in blocks of any size, and refuse packs that do not belong together."""

import pytest
import torch

from w2wpp.files.errors import InputError
from w2wpp.files.storage import read_pack, write_pack
from w2wpp.lora.layout import Adapted, WeightLayout
from w2wpp.lora.shards import open_shards, write_shards


@pytest.fixture
def folder(tmp_path, toy_layout, normal):
    """Shards of 5, 5 and 1 rows."""
    write_shards(tmp_path / "shards", [normal(11, 30).half()], toy_layout, 5)
    return tmp_path / "shards"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("written", [[11], [1] * 11, [3, 0, 8]])
@pytest.mark.parametrize("rows_per_shard", [1, 4, 11, 50])
def test_round_trip(tmp_path, toy_layout, normal, dtype, written, rows_per_shard):
    rows = normal(11, 30).to(dtype)
    shards = write_shards(tmp_path / "new/shards", iter(rows.split(written)), toy_layout, rows_per_shard)
    assert shards == open_shards(str(tmp_path / "new/shards"))
    assert (len(shards), shards.dimension, shards.dtype, shards.layout) == (11, 30, dtype, toy_layout)
    assert len(shards.paths) == -(-11 // rows_per_shard)
    for size in (1, 3, 11, 20):
        blocks = list(shards.blocks(size))
        assert [len(block) for block in blocks[:-1]] == [size] * (len(blocks) - 1)
        assert torch.equal(torch.cat(blocks), rows)


def test_a_reused_buffer_may_be_written(tmp_path, toy_layout):
    def blocks():
        buffer = torch.empty(2, 30)
        for number in range(3):
            yield buffer.fill_(number)

    shards = write_shards(tmp_path / "shards", blocks(), toy_layout, 4)
    assert torch.cat(list(shards.blocks(6)))[:, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_place_names_file_and_entry(folder):
    shards = open_shards(folder)
    assert [shards.place(row) for row in (0, 4, 5, 10)] == [
        (str(folder / "000000.safetensors"), "weights[0]"),
        (str(folder / "000000.safetensors"), "weights[4]"),
        (str(folder / "000001.safetensors"), "weights[0]"),
        (str(folder / "000002.safetensors"), "weights[0]"),
    ]


def test_failed_write_leaves_nothing(tmp_path, toy_layout, normal):
    def blocks():
        yield normal(7, 30)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(tmp_path / "shards", blocks(), toy_layout, 2)
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_kept(folder, toy_layout, normal):
    with pytest.raises(InputError, match="exists already"):
        write_shards(folder, [normal(3, 30)], toy_layout, 2)
    assert len(open_shards(folder)) == 11


@pytest.mark.parametrize(
    "blocks",
    [
        [],
        [torch.zeros(0, 30)],
        [torch.zeros(2, 29)],
        [torch.zeros(30)],
        [torch.zeros(2, 30), torch.zeros(2, 30).half()],
        [torch.zeros(2, 30).double()],
    ],
)
def test_unfit_blocks_are_refused(tmp_path, toy_layout, blocks):
    with pytest.raises(ValueError, match="rows"):
        write_shards(tmp_path / "shards", blocks, toy_layout, 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "key", "reason"),
    [
        (lambda tensors, meta: (tensors | {"mean": torch.zeros(30)}, meta), "weights", "holds the tensors"),
        (lambda tensors, meta: ({"rows": tensors["weights"]}, meta), "weights", "holds the tensors"),
        (lambda tensors, meta: ({"weights": tensors["weights"][:, :29]}, meta), "weights", r"shape \[5, 29\]"),
        (lambda tensors, meta: ({"weights": tensors["weights"][:0]}, meta), "weights", r"shape \[0, 30\]"),
        (lambda tensors, meta: ({"weights": tensors["weights"][0]}, meta), "weights", r"shape \[30\]"),
        (lambda tensors, meta: ({"weights": tensors["weights"].float()}, meta), "weights", "dtype differs"),
        (lambda tensors, meta: ({"weights": tensors["weights"].double()}, meta), "weights", "dtype F64"),
        (
            lambda tensors, meta: (tensors, {"layout": WeightLayout((Adapted("x", 10, 20),), 1, 1.0).to_meta()}),
            "weights",
            "layout differs",
        ),
    ],
)
def test_mixed_shards_are_refused(folder, change, key, reason):
    pack = folder / "000001.safetensors"
    write_pack(pack, *change(*read_pack(pack)))
    with pytest.raises(InputError, match=reason) as caught:
        open_shards(folder)
    assert (caught.value.where, caught.value.key) == (str(pack), key)


def test_first_shard_without_layout_is_refused(folder):
    pack = folder / "000000.safetensors"
    write_pack(pack, read_pack(pack)[0])
    with pytest.raises(InputError) as caught:
        open_shards(folder)
    assert (caught.value.where, caught.value.key) == (str(pack), "layout")


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_truncated_shard_is_refused(folder, kept):
    pack = folder / "000001.safetensors"
    pack.write_bytes(pack.read_bytes()[:kept])
    with pytest.raises(InputError, match="not a readable") as caught:
        open_shards(folder)
    assert caught.value.where == str(pack)


def test_shard_truncated_after_opening_is_refused(folder):
    shards = open_shards(folder)
    pack = folder / "000001.safetensors"
    pack.write_bytes(pack.read_bytes()[:-1])
    with pytest.raises(InputError, match="not a readable"):
        list(shards.blocks(3))


def test_empty_or_missing_folder_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match="here"):
            open_shards(folder)
