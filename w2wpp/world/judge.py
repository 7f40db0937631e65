"""The judge of the protocol: this world's probe, and the prompts that contradict held-out people's photos."""

from functools import partial
from pathlib import Path

import pandas as pd

from w2wpp.evaluation.protocol import POSE_SPREADS, Judge
from w2wpp.faces.portraits import Portraits
from w2wpp.world.obedience import contradictions, obeyed
from w2wpp.world.probes import load_probe


def load_judge(folder: Path, held_out: Portraits, size: int) -> Judge:
    """A judge of pictures of `size` pixels of held-out people of this world.

    Args:
        folder: of the probe.

    Raises:
        InputError: the probe is missing, corrupt, or of other pictures.
    """
    probe = load_probe(folder / "probe.safetensors", size)
    photos = pd.DataFrame(held_out.manifest).query("photo == 0").to_dict("records")
    requests = [contradictions(photo, number) for number, photo in enumerate(photos)]
    return Judge(requests, partial(obeyed, probe), lambda images: probe.measure(images, POSE_SPREADS))
