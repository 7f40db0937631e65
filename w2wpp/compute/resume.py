"""Folders of work in progress, named by task, inputs and version of the computation.

A comment, a rename or a new module changes no name. A raised version does. tests/test_versions.py compares the results
of every version on small inputs, and fails if a computation changes without a raised version.
"""

import hashlib
import json
from pathlib import Path

# The version of each computation that resumes. Raise it with every change that alters results. The work then starts
# anew, as does all work that builds on it; the old state is ignored.
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

# Inputs from other computations that are not hashed in the recipe.
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
    """The folder under `root` in which a task resumes, created if it is missing.

    Args:
        root: folder of the stage's resume state.
        task: a key of `VERSIONS`.
        recipe: JSON-able settings and hashes of inputs that determine the results. Another recipe has another folder.
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
