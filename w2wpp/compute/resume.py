"""Folders of work in progress, named by what is computed, from what, and by which version of the computation.

A comment, a rename or a new module changes no name. A changed computation does once its version is raised, and
tests/test_versions.py fails until then: it holds the results of every version on small inputs.
"""

import hashlib
import json
from pathlib import Path

# The version of each computation that resumes. Raise it with every change that alters results: the old state is then
# left alone and the work starts anew, as does all that builds on it.
VERSIONS = {
    "photos": 1,  # renders of invented people
    "codec": 1,
    "decoder": 1,
    "denoiser": 1,
    "loras": 1,  # DreamBooth training, with its start and its class images
    "predictions": 1,  # of zoo people's LoRAs, and their gradients
    "coordinates": 1,  # of the zoo in the VAE's basis
    "vae": 1,
    "latents": 1,  # of photos
    "inversion": 1,
    "sweep": 1,  # rows of the sweep beyond the tasks they build on: how pictures are drawn and scored
    "w2w": 1,  # the published weight vectors as shards
}

# What a computation takes from others without a hash of it in its recipe.
BUILDS_ON = {
    "codec": ("photos",),
    "decoder": ("codec",),
    "denoiser": ("codec",),
    "loras": ("photos",),
    "vae": ("coordinates",),
    "latents": ("photos",),
    "inversion": ("latents",),
    "sweep": ("predictions", "vae", "inversion"),
}


def scratch_folder(root: str | Path, task: str, **recipe: object) -> Path:
    """The folder under `root` in which a task resumes, made if it is missing.

    Args:
        root: of the stage's resume state.
        task: a key of `VERSIONS`.
        recipe: JSON-able settings and hashes of inputs that the results depend on. Another recipe has another folder.
    """
    named = json.dumps({"versions": versions_of(task), "recipe": recipe}, sort_keys=True)
    folder = Path(root) / f"{task}-{hashlib.sha256(named.encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def versions_of(task: str) -> dict[str, int]:
    """The versions of a task and of all that it builds on."""
    versions = {task: VERSIONS[task]}
    for other in BUILDS_ON.get(task, ()):
        versions |= versions_of(other)
    return versions
