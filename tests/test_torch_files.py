"""A matrix in torch's file is read as it is; unfit and harmful files are refused."""

import os
import pickle
import shutil
import time
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from w2w_files import TOY, draw_people, pack, publish, published_table, refused, vectors

from w2wpp.files.errors import InputError
from w2wpp.files.tensor_files import opened
from w2wpp.ingest import torch_files
from w2wpp.ingest.torch_files import open_matrix


@pytest.fixture
def toy(tmp_path, normal):
    """Weights of 30 rows, and the files that they are in."""
    weights = normal(30, TOY.dimension)
    return weights, publish(tmp_path / "w2w", weights)


class Bomb:
    def __init__(self, trap):
        self.trap = trap

    def __reduce__(self):
        return os.system, (f"touch {self.trap}",)


def saved(change, **kwargs):
    return lambda weights, path: torch.save(change(weights), path, **kwargs)


def cut(size):
    def save(weights, path):
        torch.save(weights, path)
        path.write_bytes(path.read_bytes()[:size])

    return save


@pytest.mark.parametrize(
    ("save", "reason"),
    [
        (saved(lambda w: {"weights": w}), "holds something else than one tensor"),
        (saved(lambda w: [w]), "something else"),
        (saved(lambda w: 7), "something else"),
        (saved(torch.nn.Parameter), "_rebuild_parameter: named in this pickle"),
        (saved(torch.Tensor.half), "a torch.HalfStorage, expected a torch.FloatStorage"),
        (saved(torch.Tensor.bfloat16), "a torch.BFloat16Storage"),
        (saved(torch.Tensor.double), "a torch.DoubleStorage"),
        (saved(torch.Tensor.long), "a torch.LongStorage"),
        (saved(torch.Tensor.bool), "torch.BoolStorage: named in"),
        (saved(torch.Tensor.to_sparse), "_rebuild_sparse_tensor: named in"),
        (saved(lambda w: w.numpy()), "named in"),
        (saved(lambda w: w[:, :29].clone()), "shape [30, 29], expected [rows, 30]"),
        (saved(lambda w: w[0].clone()), "shape [30]"),
        (saved(lambda w: w[None]), "shape [1, 30, 30]"),
        (saved(lambda w: w[:0].clone()), "shape [0, 30]"),
        (saved(lambda w: w.T), "strides [1, 30] from number 0, expected [30, 1] from 0"),
        (saved(lambda w: w[2:]), "strides [30, 1] from number 60"),
        (saved(lambda w: w[:2]), "900 numbers for shape [2, 30]"),
        (saved(lambda w: w, _use_new_zipfile_serialization=False), "not a zip archive of torch.save"),
        (lambda w, path: path.write_bytes(pickle.dumps(w)), "not a zip archive"),
        (lambda w, path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "a Git LFS pointer"),
        (lambda w, path: path.touch(), "an empty file"),
        (lambda w, path: path.mkdir(), "cannot be read"),
        (lambda w, path: save_file({"weights": w}, path), "not a zip archive"),
        (cut(-1), "not a sound zip archive"),
        (cut(2000), "not a sound zip archive"),
        (cut(4), "not a sound zip archive"),
    ],
)
def test_other_weights_are_refused(toy, tmp_path, save, reason):
    weights, files = toy
    files.weights.unlink()
    save(weights, files.weights)
    error = refused(pack, files, tmp_path)
    assert error.where == str(files.weights)
    assert reason in str(error)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrap", [lambda bomb, weights: bomb, lambda bomb, weights: [bomb, weights]])
@pytest.mark.parametrize("which", ["weights", "identities"])
def test_payloads_never_run(toy, tmp_path, wrap, which):
    weights, files = toy
    trap = tmp_path / "trap"
    torch.save(wrap(Bomb(trap), weights), getattr(files, which))
    error = refused(pack, files, tmp_path)
    assert error.where == str(getattr(files, which))
    assert error.key == "posix.system"
    assert not trap.exists()


def test_a_matrix_that_requires_grad_is_a_matrix(toy, tmp_path):
    torch.save(toy[0].clone().requires_grad_(), toy[1].weights)
    pack(toy[1], tmp_path)


def test_more_rows_than_people(toy, tmp_path):
    torch.save(published_table(draw_people(29)), toy[1].identities)
    assert refused(pack, toy[1], tmp_path).reason == "29 rows, the weights have 30"


@pytest.mark.parametrize("people", [[1] * 30, [1] * 15 + [2] * 15, [None] * 30])
def test_too_few_people(toy, tmp_path, people):
    torch.save(published_table(people), toy[1].identities)
    error = refused(pack, toy[1], tmp_path)
    assert (error.where, error.key) == (str(toy[1].identities), "identity")


def test_changed_numbers_are_noticed_by_their_checksum(toy, tmp_path):
    weights, files = toy
    matrix = open_matrix(files.weights, 30)
    content = bytearray(files.weights.read_bytes())
    content[matrix.begin + 120 * 17 + 2] ^= 1
    files.weights.write_bytes(content)
    assert "checksum" in refused(pack, files, tmp_path).reason
    assert list((tmp_path / "scratch").iterdir()) == []
    torch.save(weights, files.weights)
    pack(files, tmp_path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(-1500, 1500) | st.integers(-7000, 7000), st.integers(0, 7)), max_size=3),
    st.none() | st.floats(0, 1, exclude_max=True),
)
def test_damaged_weights_are_refused_or_the_same(toy, tmp_path, changes, kept):
    weights, files = toy
    torch.save(weights, files.weights)
    content = bytearray(files.weights.read_bytes())
    for place, bit in changes:
        # Headers and directory, which have more possible faults than numbers, are at both ends.
        content[place % len(content)] ^= 1 << bit
    files.weights.write_bytes(content[: int(kept * len(content))] if kept is not None else content)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    try:
        data = pack(files, tmp_path)
    except InputError as error:
        assert str(error).isprintable()
    else:
        assert torch.equal(vectors(data), weights[data.people["row"].tolist()].half())


@pytest.mark.parametrize("shape", [(2**40, 30), (30, 30, 2**60), (-1, 30), (True, 30), (30.0, 30), [30, 30]])
def test_impossible_shapes(tmp_path, shape):
    class Claim:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (torch.zeros(900).untyped_storage(), 0, shape, (30, 1), False, {})

    torch.save(Claim(), tmp_path / "x.pt")
    assert refused(open_matrix, tmp_path / "x.pt", 30).where == str(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("pickled", "reason"),
    [
        # Each tuple holds the previous one twice; hashing the last takes 2^60 steps.
        (b"})" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60)) + b"K\x01s.", "a dict with keys other than text"),
        (b"})" + b"\x85" * 200_000 + b"K\x01s.", "a dict with keys other than text"),
        (
            b"c__builtin__\nbytearray\n\x8a\x06" + (2**40).to_bytes(6, "little") + b"\x85R.",
            "builtins.bytearray: named in",
        ),
        (b"ctorch\nFloatTensor\n\x8a\x06" + (2**40).to_bytes(6, "little") + b"\x85R.", "torch.FloatTensor: named in"),
    ],
)
def test_bombs_are_refused_unexploded(tmp_path, pickled, reason):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + pickled)
    began = time.monotonic()
    assert reason in str(refused(open_matrix, tmp_path / "x.pt", 30))
    assert time.monotonic() - began < 30


def test_an_inflating_archive_is_not_inflated(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + b"N" * 2**24 + b".")
    assert "not stored as torch.save stores it" in refused(open_matrix, tmp_path / "x.pt", 30).reason


def test_a_directory_that_promises_much_allocates_nothing(toy, monkeypatch):
    content = toy[1].weights.read_bytes()
    size = content.rindex(b"PK\x06\x06") + 40
    toy[1].weights.write_bytes(content[:size] + (2**40).to_bytes(8, "little") + content[size + 8 :])
    assert "not a sound zip archive" in refused(open_matrix, toy[1].weights, 30).reason
    toy[1].weights.write_bytes(content)
    monkeypatch.setattr(torch_files, "MAX_DIRECTORY_BYTES", 100)
    assert "not a sound zip archive" in refused(open_matrix, toy[1].weights, 30).reason


def test_a_file_that_shrinks(tmp_path, normal):
    weights = normal(5000, 30)
    torch.save(weights, tmp_path / "x.pt")
    matrix = open_matrix(tmp_path / "x.pt", 30)
    with opened(tmp_path / "x.pt") as file:
        assert torch.equal(matrix.read(file, 3, 5), weights[3:5])
        os.truncate(tmp_path / "x.pt", matrix.begin + 120 * 4999)
        assert "shrank" in refused(matrix.read, file, 4000, 5000).reason
