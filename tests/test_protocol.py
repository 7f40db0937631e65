"""The protocol's measures on pictures of a tiny base model: copies score as strangers, photos as people."""

import numpy as np
import pandas as pd
import pytest
import torch

from w2wpp.diffusion.denoising import generate
from w2wpp.diffusion.prompts import Request
from w2wpp.evaluation import scoring
from w2wpp.evaluation.gallery import Gallery, embed_all
from w2wpp.evaluation.protocol import (
    Judge,
    ModelPictures,
    copies,
    draw_models,
    identity_measures,
    measured,
    picture_measures,
    score_rung,
    summary,
)
from w2wpp.faces.embeddings import Embeddings

PEOPLE, PHOTOS, SIZE = 4, 6, 32


class Colours:
    """Knows people by the mean colour of their pictures' upper half; finds no face on black ones."""

    name, dim = "colours", 3

    def embed(self, images: np.ndarray) -> Embeddings:
        colours = images[:, : images.shape[1] // 2].mean((1, 2)).astype(np.float32) / 255
        return Embeddings(colours, colours.sum(1) > 0.02)


def bright_below(requests: list[list[Request]], pictures: torch.Tensor) -> torch.Tensor:
    """Whether the lower half is as bright as the prompt requests."""
    brightness = pictures[..., SIZE // 2 :, :, :].float().mean((-3, -2, -1))
    wanted = torch.tensor([[float(request.values["background"]) for request in some] for some in requests])
    return (brightness - wanted[..., None]).abs() < 10


def yaw_and_light(images: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"yaw": images[:, -1, 0, 0].float(), "light": images[:, -1, -1, 0].float()}


@pytest.fixture(scope="module")
def judge() -> Judge:
    requests = [[Request({"background": value}, f"on {value}") for value in ("40", "200")] for _ in range(PEOPLE)]
    return Judge(requests, bright_below, yaw_and_light)


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    """Photos uint8 [PEOPLE, PHOTOS, h, w, 3]: a colour of the person above, the photo's brightness below."""
    rng = np.random.default_rng(0)
    images = np.zeros((PEOPLE, PHOTOS, SIZE, SIZE, 3))
    colours = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [160, 160, 30]])
    images[:, :, : SIZE // 2] = colours[:, None, None, None]
    images[:, :, SIZE // 2 :] = np.linspace(100, 250, PHOTOS)[None, :, None, None, None]
    return torch.from_numpy((images + rng.normal(0, 8, images.shape)).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def gallery(photos) -> Gallery:
    strangers = np.random.default_rng(1).uniform(0.1, 0.8, (40, 3)).astype(np.float32)
    zoo = Embeddings(strangers, np.ones(40, bool))
    return Gallery.build([f"p{i}" for i in range(PEOPLE)], embed_all(Colours(), photos), 2, zoo)


def obedient(photos: torch.Tensor, judge: Judge) -> ModelPictures:
    """Pictures of the right people that do what prompts request."""
    requested = photos[:, None, 1:3].repeat(1, 2, 1, 1, 1, 1)
    for prompt, value in enumerate((40, 200)):
        requested[:, prompt, :, SIZE // 2 :] = value
    return ModelPictures(photos[:, 1:4], requested, judge.obeyed(judge.requests, requested))


def test_a_copy_has_the_best_plain_score_and_is_a_stranger_where_prompts_contradict_it(photos, gallery, judge):
    table, _ = identity_measures(copies(photos[:, 0], judge, 3), gallery, Colours())
    true, _ = identity_measures(obedient(photos, judge), gallery, Colours())
    assert np.allclose(table["id_obeyed"], gallery.floor)
    assert (table["id_score"] > 0.9).all() and (true["id_score"] > 0.9).all()
    assert np.allclose(true["id_obeyed"], gallery.ceiling, atol=0.05)
    assert np.allclose(table["copying_identity"], 1, atol=1e-6)


def test_copies_copy_and_do_not_vary(pipe, photos, judge):
    copied = picture_measures(pipe, copies(photos[:, 0], judge, 3), photos, judge)
    assert np.allclose(copied["copying"], 1, atol=1e-4)
    for name in ("variety", "pose_spread_yaw", "pose_spread_light", "prompt_accuracy"):
        assert np.allclose(copied[name], 0, atol=1e-4), name
    real = picture_measures(pipe, ModelPictures(photos[:, 1:]), photos, None)
    assert np.allclose(real["variety"], 1) and np.allclose(real["copying"], 0, atol=1e-4)
    obeying = picture_measures(pipe, obedient(photos, judge), photos, judge)
    assert np.allclose(obeying["prompt_accuracy"], 1)


def test_a_person_without_a_face_on_real_photos_is_not_scored(photos, gallery, judge):
    photos = photos.clone()
    photos[2, -2:] = 0
    seen = Gallery.build(gallery.people, embed_all(Colours(), photos), 2, gallery.zoo)
    table, _ = identity_measures(obedient(photos, judge), seen, Colours())
    assert table["id_obeyed"].isna().tolist() == table["id_score"].isna().tolist() == [False, False, True, False]


def test_models_are_drawn_with_everybodys_own_prompts(pipe, layout, draw_weights, params, judge):
    drawing = params.generate.model_copy(update={"inference_steps": 1})
    evaluate = params.evaluate.model_copy(update={"seeds": 2})
    weights = draw_weights(layout, PEOPLE)
    drawn = draw_models(pipe, layout, weights, PEOPLE, judge, evaluate, drawing, "test")
    assert drawn.plain.shape == (PEOPLE, 2, SIZE, SIZE, 3) and drawn.requested.shape == (PEOPLE, 2, 2, SIZE, SIZE, 3)
    plain = generate(pipe, layout, weights, [evaluate.prompt], 2, drawing, None)[:, 0]
    asked = generate(pipe, layout, weights, ["on 40", "on 200"], 2, drawing.prompted, None)
    assert torch.equal(drawn.plain, plain)
    assert (drawn.requested.int() - asked.int()).abs().max() <= 1
    assert torch.equal(drawn.obeyed, bright_below(judge.requests, drawn.requested))
    same = draw_models(pipe, layout, weights[:1], PEOPLE, judge, evaluate, drawing, "test")
    assert (same.requested[3].int() - asked[0].int()).abs().max() <= 1
    assert draw_models(pipe, layout, weights, PEOPLE, None, evaluate, drawing, "test").requested is None


def test_pictures_come_back_from_a_pack(photos, judge):
    drawn = obedient(photos, judge)
    pack = drawn.tensors("true") | ModelPictures(photos[:, :2]).tensors("mean")
    again = ModelPictures.of(pack, "true")
    assert torch.equal(again.requested, drawn.requested) and torch.equal(again.obeyed, drawn.obeyed)
    assert torch.equal(ModelPictures.of(pack, "mean").plain, photos[:, :2])
    assert ModelPictures.of(pack, "mean").requested is None


def test_a_rung_has_means_intervals_and_a_row_per_person(pipe, photos, gallery, judge):
    found, table = score_rung(pipe, obedient(photos, judge), gallery, photos, judge, Colours(), 200)
    assert table["person"].tolist() == gallery.people
    for name in ("id_obeyed", "id_score", "copying", "variety", "prompt_accuracy", "pose_spread_yaw"):
        assert found[name] == pytest.approx(table[name].mean())
    assert found["id_obeyed_low"] <= found["id_obeyed"] <= found["id_obeyed_high"]
    assert found["tar_at_far1"] == 1 and found["face_found"] == 1
    both = measured({"true": table, "again": table})
    assert both["rung"].tolist() == ["true"] * PEOPLE + ["again"] * PEOPLE


def test_people_without_a_measure_are_left_out_of_its_mean():
    table = pd.DataFrame({"id_obeyed": [0.2, np.nan, 0.4], "copying": [np.nan] * 3})
    found = summary(table, 200)
    assert found["id_obeyed"] == pytest.approx(0.3) and found["copying"] == 0
    assert scoring.bootstrap_mean(np.array([0.2, 0.4]), 200)[1] == pytest.approx(found["id_obeyed_low"])
