"""CLIP's cosine of pictures with their prompts."""

import shutil

import numpy as np
import pytest

from w2wpp.evaluation.prompt_alignment import PromptAlignment
from w2wpp.files.errors import InputError


def test_prompt_alignment_is_the_cosine_of_clip(sd15_clip, params, normal):
    align_prompts = PromptAlignment(params.evaluate.model_copy(update={"clip": str(sd15_clip)}))
    pictures = normal(2, 3, 48, 48, 3).mul(60).add(128).clamp(0, 255).byte()
    prompts = ["a photo of sks person", "a photo of a man"]
    score = align_prompts(pictures, prompts)
    assert -1 <= score <= 1
    assert score == pytest.approx(align_prompts(pictures, ["a photo of person", prompts[1]]), abs=1e-6)
    parts = [align_prompts(pictures[[row]], [prompts[row]]) for row in range(2)]
    assert score == pytest.approx(np.mean(parts), abs=1e-5)
    assert score != pytest.approx(align_prompts(pictures, prompts[::-1]), abs=1e-6)


def test_a_broken_clip_model_is_refused(tmp_path, sd15_clip, params):
    shutil.copytree(sd15_clip, tmp_path / "clip")
    (tmp_path / "clip/model.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match="no CLIP model"):
        PromptAlignment(params.evaluate.model_copy(update={"clip": str(tmp_path / "clip")}))
