"""How well pictures match their prompts by CLIP (Radford et al. 2021, arXiv 2103.00020)."""

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from w2wpp.diffusion.hub import find_model
from w2wpp.diffusion.pipeline import to_pixels
from w2wpp.diffusion.prompts import IDENTITY_TOKEN
from w2wpp.evaluation.gallery import EvaluateParams
from w2wpp.files.errors import InputError

FILES = ("config.json", "*.safetensors", "tokenizer*.json")
BATCH = 32


class PromptAlignment:
    """CLIPScore without its weight (Hessel et al. 2021, arXiv 2104.08718): cosine between picture and prompt.

    Raises:
        InputError: the model `params.clip` is missing (see `find_model`) or cannot be loaded.
    """

    def __init__(self, params: EvaluateParams, device: torch.device | str = "cpu") -> None:
        folder = find_model(params.clip, params.clip_revision, FILES, EvaluateParams, "clip")
        try:
            self._model = CLIPModel.from_pretrained(folder, local_files_only=True).to(device).eval()
            self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise InputError(
                str(folder),
                None,
                f"no CLIP model ({' '.join(str(error).split())[:300]})",
                "Give the folder of a CLIP model, or set prompt_alignment to none",
            ) from error

    @torch.no_grad()
    def __call__(self, pictures: Tensor, prompts: list[str]) -> float:
        """Mean cosine, in [-1, 1], of pictures uint8 [prompts, n, h, w, 3] with the prompts that they were drawn for.

        The word that stands for a person's name is left out, because CLIP does not know it.
        """
        words = [" ".join(word for word in prompt.split() if word != IDENTITY_TOKEN) for prompt in prompts]
        tokens = self._tokenizer(words, padding=True, truncation=True, return_tensors="pt").to(self._model.device)
        side = self._model.config.vision_config.image_size
        mean, std = (
            torch.tensor(each, device=self._model.device)[:, None, None] for each in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
        )
        cosines = []
        for number, drawn in enumerate(pictures):
            for some in drawn.split(BATCH):
                pixels = (
                    F.interpolate(to_pixels(some.to(self._model.device)), (side, side), mode="bicubic", antialias=True)
                    .clamp(-1, 1)
                    .add(1)
                    .div(2)
                )
                seen = self._model(pixel_values=(pixels - mean) / std, **tokens)
                cosines.append(seen.image_embeds @ seen.text_embeds[number])
        return torch.cat(cosines).mean().item()
