"""Ray gives the bytes of local computation, even after losing a machine, on a real cluster of two nodes."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
import torch

from w2wpp.compute.batches import Batch, Work, batches_of, finish, joined
from w2wpp.compute.engine import EngineParams
from w2wpp.files.errors import InputError
from w2wpp.inversion.photo_encoder import LatentPrior
from w2wpp.inversion.refinement import invert_batch
from w2wpp.inversion.search import EncodedPhotos, SearchOptions
from w2wpp.spaces.affine import PCASpace

# Nobody else may use the cluster, and no token of the user is searched for. Ray reads this on import.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid4().hex}
ray = pytest.importorskip("ray")
NODE = {"num_cpus": 1, "object_store_memory": 10**8}


@pytest.fixture(scope="module")
def cluster() -> Iterator:
    """Two nodes of one core each, on this machine."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # where `_noted` is
        cluster = Cluster(initialize_head=True, head_node_args=NODE)
        cluster.add_node(**NODE)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def engine(cluster, params) -> EngineParams:
    return params.engine.model_copy(update={"kind": "ray", "address": cluster.address})


@pytest.fixture
def noted(tmp_path) -> Callable[..., Work]:
    """noted(work, nodes) writes a file in tmp_path/notes/<node>, and starts once so many nodes have done so."""
    (tmp_path / "notes").mkdir()
    return lambda work, nodes: partial(_noted, tmp_path / "notes", nodes, work)


def _noted(folder: Path, nodes: int, work: Work, *inputs) -> dict[str, torch.Tensor]:
    mine = folder / ray.get_runtime_context().get_node_id()
    mine.mkdir(exist_ok=True)
    (mine / uuid4().hex).touch()
    while len(list(folder.iterdir())) < nodes:
        time.sleep(0.01)
    return work(*inputs)


def _die(*_) -> None:
    os._exit(1)


def begun(folder: Path) -> int:
    return len(list(folder.glob("notes/*/*")))


def contents(batches: list[Batch]) -> list[bytes]:
    return [batch.path.read_bytes() for batch in batches]


def test_same_bytes_on_two_nodes(zoo_batches, train_work, noted, engine, tmp_path):
    here, there = zoo_batches(tmp_path / "here", 9), zoo_batches(tmp_path / "there", 9)
    finish(here, train_work())
    finish(there, noted(train_work(), nodes=2), "LoRAs", engine)
    assert contents(there) == contents(here)
    assert begun(tmp_path) == len(there)


def test_finished_batches_are_not_sent(zoo_batches, train_work, noted, engine, tmp_path):
    batches = zoo_batches(tmp_path)
    finish(batches[1:], train_work())
    finish(batches, noted(train_work(), nodes=1), "LoRAs", engine)
    assert begun(tmp_path) == 1
    finish(batches, None, "LoRAs", engine)


def test_inversion(pipe, layout, draw_weights, normal, params, engine, tmp_path):
    space = PCASpace(3, layout)
    space.mean.copy_(draw_weights(layout, 1)[0])
    space.components.copy_(torch.linalg.qr(draw_weights(layout, 3).T).Q.T)
    latents, text = normal(4, 4, 4, 4), normal(4, 40, 16)
    guess, spread = normal(4, 3), torch.full((3,), 0.5)
    work = partial(invert_batch, pipe, space, SearchOptions(params.invert.model_copy(update={"steps": 3})))
    found = []
    for name, where in (("here", None), ("there", engine)):
        batches = batches_of(
            4,
            2,
            tmp_path / name,
            lambda first, count: (
                LatentPrior(guess[first : first + count], spread),
                EncodedPhotos(latents[first : first + count, None], text[first : first + count, None]),
                "test",
            ),
        )
        finish(batches, work, "inversion", where)
        found.append(joined(batches))
    assert torch.equal(found[0]["z"], found[1]["z"])
    assert torch.equal(found[0]["losses"], found[1]["losses"])
    assert found[0]["z"].abs().amin() > 0


def test_what_is_wrong_there_is_an_error_here(zoo_batches, train_work, engine, tmp_path):
    batches = zoo_batches(tmp_path)
    photos, manifest, *rest = batches[0].inputs()
    captionless = Batch(batches[0].path, lambda: (photos, manifest[["person"]], *rest))
    with pytest.raises(InputError, match=r"^manifest\.csv: photo_expression: column missing"):
        finish([captionless], train_work(), "LoRAs", engine)


def test_no_machine_is_large_enough(zoo_batches, train_work, engine, tmp_path):
    torch.set_num_threads(3)
    try:
        with pytest.raises(InputError, match=r"no machine of the Ray cluster has 3 CPU.*OMP_NUM_THREADS"):
            finish(zoo_batches(tmp_path), train_work(), "LoRAs", engine)
    finally:
        torch.set_num_threads(1)


def test_ray_is_not_installed(zoo_batches, train_work, engine, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"^EngineParams: kind: .*pip install 'w2wpp\[ray\]'"):
        finish(zoo_batches(tmp_path), train_work(), "LoRAs", engine)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "nowhere", "127.0.0.1:port"])
def test_no_such_cluster(zoo_batches, train_work, engine, tmp_path, monkeypatch, address):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(InputError, match=r"^EngineParams: address: no Ray cluster.*ray start --head"):
        finish(zoo_batches(tmp_path), train_work(), "LoRAs", engine.model_copy(update={"address": address}))


def test_a_node_killed_in_the_middle(cluster, zoo_batches, train_work, noted, engine, tmp_path):
    here, there = zoo_batches(tmp_path / "here", 14), zoo_batches(tmp_path / "there", 14)
    finish(here, train_work(40))
    finished = []

    def kill_when_both_are_busy() -> None:
        before = now = (0, 0)
        while now != before or now[0] < 2 or now[1] < now[0] + 2:
            time.sleep(0.1)
            before, now = now, (sum(batch.path.exists() for batch in there), begun(tmp_path))
        cluster.remove_node(*cluster.worker_nodes, allow_graceful=False)
        finished.append(now[0])

    killer = threading.Thread(target=kill_when_both_are_busy)
    killer.start()
    finish(there, noted(train_work(40), nodes=2), "LoRAs", engine)
    killer.join()
    assert finished[0] < len(there) - 1
    assert begun(tmp_path) > len(there)
    assert contents(there) == contents(here)
    assert sorted(there[0].path.parent.iterdir()) == [batch.path for batch in there]


def test_a_batch_that_is_lost_too_often(zoo_batches, engine, tmp_path):
    with pytest.raises(InputError, match=r"^EngineParams: retries: 0, and still .*Run again: finished batches"):
        finish(zoo_batches(tmp_path)[:1], partial(_die), "LoRAs", engine.model_copy(update={"retries": 0}))
