"""Settings of the engine that computes batches; no result depends on them."""

from typing import Literal

from w2wpp.files.settings import Prompt, Rate, Section, Whole


class EngineParams(Section):
    """Where batches of people are rendered, trained and inverted."""

    kind: Literal["local", "ray"] = "local"
    """`local`: this machine; `ray`: a Ray cluster."""
    address: Prompt | None = None
    """Address of a running Ray cluster, such as 10.0.0.1:6379; null starts one on this machine."""
    gpus_per_task: Rate = 1.0
    """Share of a GPU that a batch takes, where the cluster has GPUs."""
    retries: Whole = 3
    """Retries of a batch whose machine is lost."""
