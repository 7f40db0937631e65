"""Training of the base model: what two steps do, that a kill costs nothing, and that the saved model loads."""

import json
import re

import pytest
import torch
from diffusers import StableDiffusionPipeline

from w2wpp.compute import training
from w2wpp.diffusion.pipeline import encode_prompts, load_pipeline
from w2wpp.diffusion.prompts import IDENTITY_TOKEN
from w2wpp.files.errors import InputError
from w2wpp.world import base_training
from w2wpp.world.base_model import build_tokenizer
from w2wpp.world.base_training import (
    CAPTIONS_PER_PHOTO,
    caption_tokens,
    named,
    people_factors,
    refine_decoder,
    train_codec,
    train_denoiser,
)
from w2wpp.world.captions import CAPTION_WORDS
from w2wpp.world.populations import sample_people


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(256, (8, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def tokens(pipe, base_params) -> torch.Tensor:
    return caption_tokens(pipe, sample_people(0, "base", 4, 2), base_params.denoiser, seed=0)


@pytest.fixture
def factors() -> torch.Tensor:
    return people_factors(sample_people(0, "base", 4, 2)).repeat_interleave(2, 0)


def state(*modules) -> dict[str, torch.Tensor]:
    return {
        f"{i}.{key}": value.clone() for i, module in enumerate(modules) for key, value in module.state_dict().items()
    }


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def stop_at(call: int, function):
    """`function`, which raises KeyboardInterrupt instead at its `call`-th call."""
    calls = 0

    def wrapped(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return wrapped


def test_two_steps_of_the_codec(make_pipe, images, base_params, tmp_path):
    codec = make_pipe().vae
    before = state(codec)
    train_codec(codec, images, base_params.codec, 0, tmp_path / "codec.pt")
    after = state(codec)
    assert all(torch.isfinite(value).all() for value in after.values())
    assert not any(torch.equal(before[key], after[key]) for key in before)
    latents = codec.encode(images.permute(0, 3, 1, 2) / 127.5 - 1).latents * codec.config.scaling_factor
    assert latents.std().item() == pytest.approx(1, abs=1e-3)
    assert torch.load(tmp_path / "codec.pt", weights_only=True)["step"] == 2


def test_interrupted_codec_equals_uninterrupted(make_pipe, images, base_params, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 2)
    params = base_params.codec.model_copy(update={"steps": 5})
    whole, broken, resumed = (make_pipe().vae for _ in range(3))
    train_codec(whole, images, params, 0, tmp_path / "whole.pt")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(base_training, "codec_loss", stop_at(4, base_training.codec_loss))
        train_codec(broken, images, params, 0, tmp_path / "codec.pt")
    assert torch.load(tmp_path / "codec.pt", weights_only=True)["step"] == 2
    train_codec(resumed, images, params, 0, tmp_path / "codec.pt")
    assert equal(state(resumed), state(whole))
    assert resumed.config.scaling_factor == whole.config.scaling_factor


def test_refining_the_decoder_leaves_latents_alone(make_pipe, images, base_params, tmp_path):
    codec = make_pipe().vae
    before = state(codec)
    refine_decoder(codec, images, base_params.codec, 0, tmp_path / "decoder.pt")
    after = state(codec)
    for key, value in before.items():
        assert torch.equal(value, after[key]) == ("encoder" in key), key
    assert torch.load(tmp_path / "decoder.pt", weights_only=True)["step"] == base_params.codec.decoder_steps
    assert all(parameter.requires_grad for parameter in codec.parameters())


def test_two_steps_of_the_denoiser(make_pipe, tokens, factors, base_params, normal, tmp_path):
    pipe, still = make_pipe(), make_pipe()
    train_denoiser(pipe, normal(8, 2, 4, 4, 4), tokens, factors, base_params.denoiser, 0, tmp_path / "denoiser.pt")
    for trained, untrained in ((pipe.unet, still.unet), (pipe.text_encoder, still.text_encoder)):
        before, after = state(untrained), state(trained)
        assert all(torch.isfinite(value).all() for value in after.values())
        assert sum(not torch.equal(before[key], after[key]) for key in before) > 0.9 * len(before)
    assert equal(state(pipe.vae), state(still.vae))


def test_interrupted_denoiser_equals_uninterrupted(
    make_pipe, tokens, factors, base_params, normal, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 2)
    params, latents = base_params.denoiser.model_copy(update={"steps": 5}), normal(8, 2, 4, 4, 4)
    whole, broken, resumed = (make_pipe() for _ in range(3))
    train_denoiser(whole, latents, tokens, factors, params, 0, tmp_path / "whole.pt")
    broken.unet.forward = stop_at(4, broken.unet.forward)
    with pytest.raises(KeyboardInterrupt):
        train_denoiser(broken, latents, tokens, factors, params, 0, tmp_path / "denoiser.pt")
    train_denoiser(resumed, latents, tokens, factors, params, 0, tmp_path / "denoiser.pt")
    expected = state(whole.unet, whole.text_encoder)
    assert equal(state(resumed.unet, resumed.text_encoder), expected)
    assert not equal(state(broken.unet, broken.text_encoder), expected)

    finished = make_pipe()
    finished.unet.forward = stop_at(1, finished.unet.forward)  # nothing is left to do
    train_denoiser(finished, latents, tokens, factors, params, 0, tmp_path / "denoiser.pt")
    assert equal(state(finished.unet, finished.text_encoder), expected)


def test_result_is_the_average_of_the_weights(make_pipe, tokens, factors, base_params, normal, tmp_path):
    pipe = make_pipe()
    train_denoiser(pipe, normal(8, 2, 4, 4, 4), tokens, factors, base_params.denoiser, 0, tmp_path / "denoiser.pt")
    saved = torch.load(tmp_path / "denoiser.pt", weights_only=True)
    trained = [*pipe.unet.parameters(), *pipe.text_encoder.parameters()]
    for parameter, average in zip(trained, saved["averages"], strict=False):  # the last is that of the names
        assert torch.equal(parameter, average)
    assert len(saved["averages"]) == len(trained) + 1
    assert not torch.equal(saved["unet"]["conv_in.weight"], pipe.unet.conv_in.weight)


def test_caption_tokens(pipe, base_params):
    people = sample_people(0, "base", 60, 2)
    share = base_params.denoiser.model_copy(update={"caption_dropout": 0.3, "class_prompt": 0.2, "name_prompt": 0.2})
    tokens = caption_tokens(pipe, people, share, seed=0)
    assert tokens.shape == (120, CAPTIONS_PER_PHOTO, base_params.text.max_tokens)
    assert torch.equal(tokens, caption_tokens(pipe, people, share, seed=0))
    assert not torch.equal(tokens, caption_tokens(pipe, people, share, seed=1))
    texts = pipe.tokenizer.batch_decode(tokens.flatten(0, 1), skip_special_tokens=True)
    assert sum(not text.strip() for text in texts) / len(texts) == pytest.approx(0.3, abs=0.08)
    persons = [text for text in texts if text.startswith(("a photo of a person", "a photo of sks person"))]
    assert len(persons) / len(texts) == pytest.approx(0.4, abs=0.08)
    assert sum("sks" in text for text in persons) / len(persons) == pytest.approx(0.5, abs=0.12)
    assert all(text.startswith("a photo of") for text in texts if text.strip())


def test_people_factors_are_standardised_and_tell_people_apart():
    factors = people_factors(sample_people(0, "base", 200, 1))
    torch.testing.assert_close(factors.mean(0), torch.zeros(factors.shape[1]), atol=1e-4, rtol=0)
    varied = factors.std(0) > 0
    assert varied.float().mean() > 0.95
    torch.testing.assert_close(factors.std(0)[varied], torch.ones(int(varied.sum())))
    assert torch.pdist(factors).min() > 5


def test_a_name_moves_the_identity_token_and_what_follows_it(pipe, normal):
    tokens = pipe.tokenizer(
        ["a photo of sks person", "a photo of a person"], padding="max_length", return_tensors="pt"
    ).input_ids
    token = pipe.tokenizer.convert_tokens_to_ids(f"{IDENTITY_TOKEN}</w>")
    position = int((tokens[0] == token).nonzero())
    with torch.no_grad():
        plain = pipe.text_encoder(tokens).last_hidden_state
        with named(pipe.text_encoder, token, normal(2, plain.shape[-1])):
            moved = pipe.text_encoder(tokens).last_hidden_state
        assert torch.equal(pipe.text_encoder(tokens).last_hidden_state, plain)
    assert torch.equal(moved[1], plain[1])
    assert torch.equal(moved[0, :position], plain[0, :position])
    assert all(not torch.equal(one, other) for one, other in zip(moved[0, position:], plain[0, position:], strict=True))


WORDS = [*CAPTION_WORDS, IDENTITY_TOKEN]


def test_every_word_is_one_token():
    tokenizer = build_tokenizer(WORDS, 32)
    assert tokenizer.model_max_length == 32
    pieces = {piece for word in WORDS for piece in re.findall(r"[a-z]+|[^a-z]+", word)}
    for word in pieces:
        assert tokenizer.tokenize(word) == [f"{word}</w>"]
    words = ["a", "photo", "of", "sks", "man", ",", "smiling"]
    assert tokenizer.tokenize("a photo of sks man, smiling") == [f"{word}</w>" for word in words]
    assert tokenizer.unk_token_id not in tokenizer("zürich 7!", add_special_tokens=False).input_ids


def test_tokenizer_is_the_same_every_time():
    # A resumed training builds it anew, and must find the ids that the checkpoint was trained with.
    tokenizers = [build_tokenizer(words, 32) for words in (WORDS, WORDS[::-1], WORDS * 2)]
    assert tokenizers[0].get_vocab() == tokenizers[1].get_vocab() == tokenizers[2].get_vocab()
    assert len({tuple(map(tuple, tokenizer([*WORDS, "unheard-of words"]).input_ids)) for tokenizer in tokenizers}) == 1


@pytest.fixture
def saved(make_pipe, tmp_path):
    make_pipe().to(dtype=torch.float16).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_saved_pipeline_loads(saved, make_pipe, normal):
    original = make_pipe().to(dtype=torch.float16).to(dtype=torch.float32)
    plain = StableDiffusionPipeline.from_pretrained(saved)
    plain.set_progress_bar_config(disable=True)
    loaded = load_pipeline(saved)
    assert loaded.unet.dtype == torch.float32
    assert not any(
        p.requires_grad for module in (loaded.vae, loaded.text_encoder, loaded.unet) for p in module.parameters()
    )
    assert not any(module.training for module in (loaded.vae, loaded.text_encoder, loaded.unet))
    start = normal(1, 4, 4, 4)
    pictures = [
        each("a photo of sks person", latents=start, num_inference_steps=2, output_type="np").images
        for each in (original, plain.to(dtype=torch.float32), loaded)
    ]
    assert pictures[0].shape == (1, 32, 32, 3)
    for other in pictures[1:]:
        assert abs(pictures[0] - other).max() < 1e-4
    with torch.no_grad():
        torch.testing.assert_close(encode_prompts(loaded, ["a man"]), encode_prompts(original, ["a man"]))


def test_missing_pipeline_is_refused(tmp_path):
    with pytest.raises(InputError) as caught:
        load_pipeline(tmp_path / "absent")
    assert (caught.value.where, caught.value.key) == (str(tmp_path / "absent"), "model_index.json")


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model_index.json").write_text("{half"),
        lambda folder: (folder / "unet/config.json").write_text("{half"),
        lambda folder: (folder / "unet/config.json").unlink(),
        lambda folder: (folder / "vae/diffusion_pytorch_model.safetensors").unlink(),
        lambda folder: (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"\x10garbage" * 9),
        lambda folder: (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(
            (folder / "unet/diffusion_pytorch_model.safetensors").read_bytes()[:-50]
        ),
        lambda folder: (folder / "text_encoder/model.safetensors").write_bytes(b"\x10garbage" * 9),
        lambda folder: (folder / "tokenizer/tokenizer.json").write_text("{half"),
        lambda folder: (folder / "unet/config.json").write_text(
            json.dumps(json.loads((folder / "unet/config.json").read_text()) | {"block_out_channels": [16, 48]})
        ),
    ],
)
def test_damaged_pipeline_is_refused(saved, damage):
    damage(saved)
    with pytest.raises(InputError) as caught:
        load_pipeline(saved)
    assert caught.value.where == str(saved)
    assert "\n" not in str(caught.value)
    assert "dvc repro base" in caught.value.remedy
