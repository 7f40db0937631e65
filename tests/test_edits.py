"""Edits of rendered people: labels, whom an edit fits, its pictures, and what is measured on them."""

import numpy as np
import pandas as pd
import pytest
import torch

from w2wpp.diffusion.denoising import generate
from w2wpp.diffusion.pipeline import encode_images
from w2wpp.evaluation.editing import (
    COLUMNS,
    MEASURES,
    at_flip_rate,
    by_person,
    editing_gains,
    editing_summary,
    measure_edits,
    rates_of,
    reached,
    read_edits,
)
from w2wpp.evaluation.gallery import Gallery
from w2wpp.faces.embeddings import Embeddings
from w2wpp.inversion.editing import EditParams, edit, fit_directions, label_columns
from w2wpp.world.edits import EDITS, draw_edits, people_labels
from w2wpp.world.factors import FACTORS
from w2wpp.world.populations import manifest_rows, person_names, sample_people
from w2wpp.world.probes import Probe

COUNT = 40


class Patches:
    """A recogniser that sees a face wherever a picture is bright enough, and tells people by their mean colours."""

    name, dim = "patches", 3

    def embed(self, images: np.ndarray) -> Embeddings:
        means = images.reshape(len(images), -1, 3).mean(1) / 255
        return Embeddings(means, means.sum(1) > 0.5)


@pytest.fixture(scope="module")
def manifest() -> pd.DataFrame:
    people = sample_people(0, "zoo", COUNT, 2)
    return pd.DataFrame(manifest_rows(person_names("zoo", COUNT), ["zoo"] * COUNT, people))


@pytest.fixture
def drawn(pipe, layout, draw_weights, make_space, manifest, params):
    """Five people's edits in a space of 12 directions: directions, LoRAs, their rows, settings, table and pictures."""
    vectors = draw_weights(layout, COUNT, seed=7)
    space = make_space(layout, vectors[:12] - vectors.mean(0), vectors.mean(0))
    labels = label_columns(people_labels(manifest), person_names("zoo", COUNT), "manifest.csv")
    directions = fit_directions(space, [vectors], labels, 0.1)
    how = EditParams(strengths=[1.0, 3.0], seeds=2, disentangle="none")
    drawing = params.generate.model_copy(update={"inference_steps": 1})
    people = manifest.drop_duplicates("person").to_dict("records")[:5]
    models = {"inversion": space.decode(space.encode(vectors[:5])), "true": vectors[:5]}
    table, pictures = draw_edits(pipe, space, directions, models, people, how, "a photo of sks person", drawing)
    return space, directions, models, people, drawing, table, pictures


def test_labels_are_what_the_manifest_says(manifest):
    labels = people_labels(manifest)
    assert len(labels) == COUNT and list(labels["person"]) == person_names("zoo", COUNT)
    people = [identity for identity, _ in sample_people(0, "zoo", COUNT, 1)]
    for row, identity in zip(labels.to_dict("records"), people, strict=True):
        assert (row["sex"], row["age"], row["weight"]) == (identity.gender, identity.age, identity.weight)
        assert row["glasses"] == (identity.glasses != "none")
        assert row["beard"] == {"none": 0, "stubble": 0.5, "full": 1}[identity.beard]
        assert row["hair"] == ("" if identity.hair_style == "bald" else identity.hair_color)
        assert row["style"] == identity.hair_style and row["skin"] == pytest.approx(np.mean(identity.skin_rgb))


def test_an_edit_fits_whoever_is_not_like_that(manifest):
    rows = manifest.drop_duplicates("person").to_dict("records")
    for row, (identity, _) in zip(rows, sample_people(0, "zoo", COUNT, 1), strict=True):
        assert EDITS["glasses"].fits(row) == (identity.glasses == "none")
        assert EDITS["beard"].fits(row) == (identity.gender < 0.35 and identity.beard != "full")
        assert EDITS["woman"].fits(row) == (identity.gender < 0.35)
        assert EDITS["old"].fits(row) == (identity.age < 0.82)
    for each in EDITS.values():
        assert set(each.values) <= set(FACTORS[each.factor].choices)
        assert any(map(each.fits, rows))


def test_pictures_are_those_of_edited_loras_and_of_prompts(pipe, drawn):
    space, directions, models, people, drawing, table, pictures = drawn
    assert list(table) == list(COLUMNS) and pictures.shape[1:] == (2, 32, 32, 3)
    assert set(table["picture"]) == set(range(len(pictures)))
    for row in table.sample(12, random_state=0).itertuples():
        each, weights = EDITS[row.edit], models[row.model][[row.person]]
        assert each.fits(people[row.person])
        prompt, how = "a photo of sks person", drawing.prompted if row.prompted else drawing
        if row.prompted and row.strength:
            prompt = each.prompt
        elif row.strength:
            weights = edit(space, weights, row.strength * each.sign * directions.step(each.label, "none"))
        alone = generate(pipe, space.layout, weights, [prompt], 2, how, None)[0, 0]
        assert (alone.int() - pictures[row.picture].int()).abs().max() <= 2
    assert not table[table["prompted"]]["edit"].isin(["heavy", "dark_skin"]).any()


def test_measures_compare_each_picture_with_the_unedited_one(pipe, drawn):
    *_, table, pictures = drawn
    torch.manual_seed(0)
    probe = Probe()
    probe(torch.zeros(1, 3, 32, 32))
    probe.eval()
    recognizer, rng = Patches(), np.random.default_rng(0)
    real = Embeddings(rng.random((5, 2, 3)), np.ones((5, 2), bool))
    zoo = Embeddings(rng.random((9, 3)), np.ones(9, bool))
    gallery = Gallery.build([f"p{number}" for number in range(5)], real, 2, zoo)
    targets = {name: each.target for name, each in EDITS.items()}
    scores = measure_edits(pipe, table, pictures, targets, gallery, probe.shares, recognizer)
    assert list(scores) == [*COLUMNS, *MEASURES]
    unedited = scores[scores["strength"] == 0]
    assert unedited["others_changed"].max() == 0 and unedited["latent_distance"].abs().max() < 1e-6
    center = encode_images(pipe, pictures[unedited["picture"].unique()].flatten(0, 1)).flatten(1).mean(0)
    for row in scores.sample(12, random_state=1).itertuples():
        same = (scores["model"] == row.model) & (scores["person"] == row.person) & (scores["prompted"] == row.prompted)
        start = scores[same & (scores["strength"] == 0) & (scores["edit"] == row.edit)]["picture"].item()
        after, before = pictures[row.picture], pictures[start]
        factor, values = EDITS[row.edit].factor, EDITS[row.edit].values
        shown = [FACTORS[factor].choices[number] in values for number in probe.read(after, factor).tolist()]
        assert row.flipped == np.mean(shown)
        cosines = []
        for one, other in zip(after, before, strict=True):
            (a, b), found = recognizer.embed(torch.stack([one, other]).numpy())
            a, b = a - gallery.mean, b - gallery.mean
            cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b) if found.all() else gallery.floor)
        assert row.id_kept == pytest.approx(np.mean(cosines))
        changed = [
            (probe.shares(after)[name] - probe.shares(before)[name]).abs().sum(1).mean() / 2
            for name in FACTORS
            if name != factor
        ]
        assert row.others_changed == pytest.approx(torch.stack(changed).mean().item(), abs=1e-6)
        a, b = (encode_images(pipe, each).flatten(1) - center for each in (after, before))
        assert row.latent_distance == pytest.approx(1 - torch.cosine_similarity(a, b).mean().item(), abs=1e-4)


def scores_of(slope: float, people: int = 6) -> pd.DataFrame:
    """Two edits: one flips a sixth of the people more with every unit of strength, the other nobody before 4."""
    rows = []
    for model in ("inversion", "true"):
        for person in range(people):
            for strength in (0.0, 2.0, 4.0):
                linear, late = (
                    float(person < 1.5 * strength * people / 6),
                    float(strength == 4.0 and person < people / 3),
                )
                for name, flipped in (("linear", linear), ("late", late)):
                    kept = 1 - slope * strength * (1 + person)
                    rows.append((model, f"p{person}", name, strength, False, 0, flipped, kept, kept / 2, strength, 0.0))
            rows.append((model, f"p{person}", "linear", 1.0, True, 0, 1.0, 0.3, 0.2, 0.1, 0.4))
    return pd.DataFrame(rows, columns=[*COLUMNS, *MEASURES])


def test_measures_at_a_flip_rate_lie_between_strengths():
    scores = scores_of(0.01)
    inversions = scores[scores["model"] == "inversion"]
    assert reached(inversions) == pytest.approx({"linear": 1.0, "late": 1 / 3})
    found = at_flip_rate(inversions, {"linear": 0.25, "late": 1 / 6}).set_index(["edit", "person"])
    assert found.loc["linear", "strength"].unique() == pytest.approx([1.0])  # half flip at 2
    assert found.loc["late", "strength"].unique() == pytest.approx([3.0])
    for person in range(6):
        assert found.loc[("linear", f"p{person}"), "id_kept"] == pytest.approx(1 - 0.01 * (1 + person))
        assert found.loc[("late", f"p{person}"), "others_changed"] == pytest.approx(3.0)
    assert found.groupby("edit")["flipped"].mean().to_dict() == pytest.approx({"linear": 0.25, "late": 1 / 6})
    beyond = at_flip_rate(inversions, {"late": 0.9})
    assert beyond["strength"].unique() == [4.0] and beyond["flipped"].mean() == pytest.approx(1 / 3)
    means = by_person(pd.concat([at_flip_rate(inversions, {"linear": 0.25}), beyond]))
    assert means.loc["p0", "id_kept"] == pytest.approx((0.99 + 0.96) / 2)


def test_summary_and_gains(tmp_path):
    summary = editing_summary(scores_of(0.01), 0.25, 100)
    assert summary["edits"] == 2 and summary["strength"] == pytest.approx((1 + 3.5) / 2)
    assert summary["flipped"] == pytest.approx(0.25) and summary["true"]["flipped"] == pytest.approx(0.25)
    expected = np.mean([1 - 0.01 * 2.25 * (1 + person) for person in range(6)])
    assert summary["id_kept"]["mean"] == pytest.approx(expected)
    assert summary["id_kept"]["low"] < summary["id_kept"]["mean"] < summary["id_kept"]["high"]
    assert summary["prompted"] == pytest.approx(
        {"flipped": 1, "id_kept": 0.3, "id_score": 0.2, "others_changed": 0.1, "latent_distance": 0.4}
    )
    for name, slope in {"vae": 0.01, "pca": 0.02, "linear": 0.01}.items():
        scores_of(slope).to_csv(tmp_path / f"{name}.csv", index=False)
    spaces = {name: read_edits(tmp_path / f"{name}.csv") for name in ("vae", "pca", "linear")}
    assert read_edits(tmp_path / "none.csv") is None and set(spaces["vae"]["model"]) == {"inversion"}
    gains = editing_gains(spaces, "pca", 0.25, 100)
    assert gains.keys() == {"id_kept", "id_score", "others_changed", "latent_distance"}
    assert gains["id_kept"]["gain"]["mean"] == pytest.approx(0.01 * 2.25 * 3.5)
    assert gains["id_kept"]["gain"]["low"] > 0
    assert gains["id_kept"]["gain_over_linear"] == {"mean": 0, "low": 0, "high": 0}


def test_edits_that_cannot_flip_enough_are_left_out_unless_all_are():
    tables = [scores_of(0.01), scores_of(0.02, people=12)]
    tables = [table[table["model"] == "true"] for table in tables]
    assert rates_of(tables, 0.5) == {"linear": 0.5}
    assert rates_of(tables, 0.25) == {"linear": 0.25, "late": 0.25}
    late = [table[table["edit"] == "late"] for table in tables]
    assert rates_of(late, 0.5) == pytest.approx({"late": 1 / 3})
    assert editing_summary(scores_of(0.01), 0.5, 100)["edits"] == 1
