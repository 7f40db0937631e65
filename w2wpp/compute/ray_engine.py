"""Batches computed by Ray tasks, on this machine or on others without a shared file system."""

import io
import logging
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import w2wpp
from w2wpp.compute.batches import Batch, Work
from w2wpp.compute.engine import EngineParams
from w2wpp.compute.runtime import ENVIRONMENT, device, prepare
from w2wpp.files.errors import ArgumentError


def compute_on_ray(
    batches: list[Batch], work: Work, engine: EngineParams, one_core: bool
) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
    """Each batch with its results, in order of completion; another machine repeats the batches of a lost one.

    Args:
        one_core: whether a batch takes one core. Otherwise it takes a share of a GPU if the cluster has any, or as many
            cores as torch uses on this machine: sums over another number of threads differ in their last bits.

    Raises:
        InputError: see `connected`; no machine has these resources, or a batch lost its machine too often.
    """
    ray = connected(engine)
    threads = 1 if one_core else torch.get_num_threads()
    needs: dict[str, float] = {"num_cpus": threads}
    if not one_core and ray.cluster_resources().get("GPU"):
        needs = {"num_cpus": 1, "num_gpus": engine.gpus_per_task}
    _check_that_one_machine_has(needs, ray.nodes())
    task = ray.remote(_compute).options(max_retries=engine.retries, **needs)
    shared = ray.put(packed(work))
    # In a list, not as arguments: Ray keeps arguments in memory for a running batch, and never lets go of those of a
    # stage that is killed or fails (ray-project/ray#64627); in the end the cluster would begin no batch any more.
    running = {task.remote([shared, ray.put(packed(batch.inputs()))], threads): batch for batch in batches}
    while running:
        for done in ray.wait(list(running))[0]:
            try:
                yield running.pop(done), ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause or error from error
            except ray.exceptions.RayError as error:
                raise ArgumentError(
                    EngineParams,
                    "retries",
                    f"{engine.retries}, and still a batch was lost ({str(error).splitlines()[0]})",
                    "Run again: finished batches are kept",
                ) from error


def connected(engine: EngineParams) -> ModuleType:
    """The package ray, connected to the cluster that `engine` names, or to one started on this machine.

    Raises:
        InputError: Ray is not installed, or there is no such cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise ArgumentError(
            EngineParams, "kind", "ray, but Ray is not installed", "`pip install 'w2wpp[ray]'`, or set it to local"
        ) from error
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # The library is sent along, so that all machines run this machine's code.
        runtime = {"py_modules": [str(Path(w2wpp.__file__).parent)], "env_vars": ENVIRONMENT}
        try:
            _check_that_something_listens(engine.address)
            ray.init(engine.address or "local", runtime_env=runtime, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ImportError, RuntimeError, ValueError) as error:
            raise ArgumentError(
                EngineParams,
                "address",
                f"no Ray cluster that can be used ({' '.join(str(error).split())[:300]})",
                "Start one with `ray start --head`, or set it to null",
            ) from error
    return ray


def _check_that_something_listens(address: str | None) -> None:
    """Checked first, because Ray itself would try for many minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=10).close()


def _check_that_one_machine_has(needs: dict[str, float], nodes: list[dict]) -> None:
    """Checked first, because Ray itself would wait forever for such a machine."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    if not any(
        node["Alive"] and all(node["Resources"].get(names[key], 0) >= number for key, number in needs.items())
        for node in nodes
    ):
        needed = " and ".join(f"{number} {names[key]}" for key, number in needs.items())
        raise ArgumentError(
            EngineParams,
            "kind",
            f"no machine of the Ray cluster has {needed}, which a batch takes",
            "Add one, or set OMP_NUM_THREADS for batches on fewer cores",
        )


def _compute(sent: list, threads: int) -> dict[str, Tensor]:
    """The task: a batch's results, on the CPU, from references to the work and its inputs."""
    import ray

    prepare()
    torch.set_num_threads(threads)
    # While the main thread waits for what is sent, Ray would lend its core to another batch.
    with ThreadPoolExecutor(1) as pool:
        work, inputs = map(_unpacked, pool.submit(ray.get, sent).result())
    results = work(*inputs)
    return {key: tensor.detach().cpu() for key, tensor in results.items()}


def packed(content: object) -> bytes:
    """What is sent to a machine of the cluster: the work once, and the inputs of each batch."""
    # Ray would return tensors on the device that they came from, which this machine may not have.
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _unpacked(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location=device(), weights_only=False)
