"""Captions are made of known words."""

import numpy as np

from w2wpp.diffusion.prompts import CLASS_PROMPT
from w2wpp.world.captions import CAPTION_WORDS, caption
from w2wpp.world.people import sample_identity, sample_nuisance


def test_captions_use_known_words():
    rng = np.random.default_rng(0)
    texts = [caption(sample_identity(seed), sample_nuisance(seed), rng) for seed in range(600)]
    assert len(set(texts)) > 300
    for text in [*texts, CLASS_PROMPT]:
        assert text.startswith("a photo of")
        assert text == text.lower()
    used = {word for text in texts for word in text.replace(",", " , ").split()}
    assert used <= set(CAPTION_WORDS)
