"""The type of files that adapt no module of the UNet, recognised by the names of their tensors."""

import re
from collections.abc import Iterable

_ENCODER = re.compile(
    r"(?:base_model\.model\.|_orig_mod\.|module\.|lycoris_)*"
    r"(?:text_encoder|text_model[._]|lora_te|te\d?\.|conditioner\.|clip_[lg]\.)"
)
# emb_params is A1111's name, clip_l and clip_g belong to the two encoders of XL, <word> is diffusers' name.
_EMBEDDING = re.compile(r"(?:.*\.)?(?:emb_params|clip_[lg](?:_out)?|t5(?:_out)?|<[^>]*>)")
_ADAPTER = re.compile(r"lora|hada_|lokr_|oft_|glora|ia3|dora_scale|\.diff(?:_b)?$|\.alpha$")
_WHOLE_MODEL = re.compile(
    r"first_stage_model\.|cond_stage_model\.|(?:unet\.)?conv_in\.weight|(?:encoder|decoder)\.conv_in\.weight|"
    r"model\.diffusion_model\.input_blocks\.0\.0\.weight|text_model\.embeddings\.token_embedding\.weight"
)
# Other changes of a module, by the part of a key after its name.
_CHANGES = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (r"hada_", "LoHa"),
        (r"lokr_", "LoKr"),
        (r"b?oft_", "OFT"),
        (r"dora_scale|(?:lora_)?magnitude", "DoRA"),
        (r"lora_mid\b", "LoCon with a core tensor"),
        (r"base_layer\b", "a whole model with its adapter"),
        (r"modules_to_save\b", "a whole layer"),
        (r"diff(?:_b)?$", "a difference of whole weights"),
        (r"(?:lora_(?:up|B)\.)?bias$", "a bias"),
        (r"weight$", "a whole weight"),
    )
)
# The most specific first. kohya's trainer separates the parts of a path by underscores instead of dots.
_MODELS = tuple(
    (re.compile(pattern.replace("@", r"[._]")), kind)
    for pattern, kind in (
        (r"motion_module|temporal_transformer", "a motion module of AnimateDiff"),
        (r"controlnet|control_model|input_hint_block", "a ControlNet"),
        (r"ip_adapter|image_proj\b", "an IP-Adapter"),
        (r"joint_transformer_blocks", "a LoRA of AuraFlow"),
        (r"single_transformer_blocks|double_blocks|single_blocks", "a LoRA of Flux or a model built alike"),
        (r"transformer_blocks@\d+@(?:img_|txt_)", "a LoRA of Qwen-Image"),
        (
            r"joint_blocks|context_block|attn@add_[qkv]_proj|transformer_blocks@\d+@attn@",
            "a LoRA of Stable Diffusion 3 or a model built alike",
        ),
        (r"caption_projection|adaln_single", "a LoRA of PixArt"),
        (r"(?:^|\.|unet_)blocks@\d+@(?:self_attn|cross_attn)", "a LoRA of a video model such as Wan"),
        (r"(?:^|\.|unet_)layers@\d+@(?:attention|adaLN)", "a LoRA of Lumina or a model built alike"),
        (r"(?:^|\.)layers\.\d+\.(?:self_attn|mlp)\.", "a LoRA of a language model"),
        (
            r"(?:attentions@\d|(?:input|output)_blocks@\d+@1|middle_block@1)@transformer_blocks@[1-9]|label_emb|add_embedding",
            "a LoRA of Stable Diffusion XL",
        ),
        (r"lora_prior_unet|kv_mapper", "a LoRA of Stable Cascade"),
    )
)


def is_of_text_encoder(key: str) -> bool:
    """Whether a key belongs to a text encoder, in any of the namings."""
    return bool(_ENCODER.match(key))


def change(rest: str) -> str:
    """What changes a module by a tensor of this name, relative to the module, other than a LoRA; "" if not known."""
    return next((kind for pattern, kind in _CHANGES if pattern.match(rest)), "")


def other_model(keys: Iterable[str]) -> tuple[str, str] | None:
    """A key that shows that a file belongs to another model than Stable Diffusion 1, and the model; None if there is
    none.
    """
    of_model = sorted(key for key in keys if not is_of_text_encoder(key))
    for pattern, kind in _MODELS:
        telling = next(filter(pattern.search, of_model), None)
        if telling:
            return telling, kind
    return None


def bystander(keys: Iterable[str]) -> tuple[str, str] | None:
    """A key that identifies a file beside LoRAs of a UNet, and its type; None if the file seems to be a LoRA."""
    keys = sorted(keys)
    if all(map(_EMBEDDING.fullmatch, keys)):
        return keys[0], "an embedding of a text encoder (textual inversion), no LoRA"
    if all(map(is_of_text_encoder, keys)) and any(map(_ADAPTER.search, keys)):
        return keys[0], "of a text encoder, as is all of the file"
    whole = next(filter(_WHOLE_MODEL.match, keys), None)
    if whole and not any(map(_ADAPTER.search, keys)):
        return whole, "of a whole model or a part of one, no LoRA"
    return None
