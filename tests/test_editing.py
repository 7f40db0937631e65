"""Directions of attributes, learned from labels, and edits along them."""

import numpy as np
import pandas as pd
import pytest
import torch

from w2wpp.files.errors import ArgumentError, InputError
from w2wpp.inversion.editing import Directions, EditParams, edit, fit_directions, label_columns, read_labels
from w2wpp.spaces.affine import LinearSpace

PEOPLE = [f"p{number}" for number in range(400)]


@pytest.fixture
def space(toy_layout, normal) -> LinearSpace:
    """Five orthonormal directions of 30 numbers."""
    basis = torch.linalg.qr(normal(30, 5)).Q.T
    return LinearSpace.fitted(toy_layout, normal(30), torch.ones(5), basis, basis)


@pytest.fixture
def zoo(space, normal) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents [400, 5] that are correlated, and the LoRAs that they are, each with a part outside the space."""
    mixed = torch.eye(5)
    mixed[0, 1] = mixed[2, 3] = 0.6
    z = normal(400, 5) @ mixed
    outside = normal(400, 30)
    return z, space.decode(z) + outside - (outside @ space.analysis.T) @ space.analysis


@pytest.fixture
def fitted(space, zoo) -> Directions:
    """Labels that are places along three of the latents, and one that is a sign of two of them."""
    z, weights = zoo
    table = pd.DataFrame({"person": PEOPLE, "age": z[:, 0], "weight": 3 * z[:, 1] + 7, "skin": z[:, 2]})
    table["beard"] = np.where(z[:, 3] + z[:, 4] > 0.5, "full", "none")
    return fit_directions(space, weights.split(150), label_columns(table, PEOPLE, "labels.csv"), 1e-6)


def test_readouts_predict_labels(zoo, fitted):
    z, _ = zoo
    assert fitted.names == ("age", "weight", "skin", "beard_full", "beard_none")
    assert fitted.groups == ("age", "weight", "skin", "beard", "beard")
    for row, place in enumerate((0, 1, 2)):
        expected = torch.zeros(5)
        expected[place] = 1 / z[:, place].std(correction=0)
        torch.testing.assert_close(fitted.readouts[row], expected, atol=1e-3, rtol=1e-3)
    # Of the two categories of one label, one is what the other is not.
    torch.testing.assert_close(fitted.readouts[3], -fitted.readouts[4])
    cosine = torch.cosine_similarity(fitted.readouts[3], torch.tensor([0.0, 0, 0, 1, 1]), dim=0)
    assert cosine > 0.98
    torch.testing.assert_close(fitted.covariance, torch.cov(z.T), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("hold", ["all", ["age"], "none"])
def test_a_step_is_one_deviation_of_the_zoo_and_leaves_what_is_held(zoo, fitted, hold):
    z, _ = zoo
    held = hold if isinstance(hold, list) else {"all": ["age", "skin", "beard_full"], "none": []}[hold]
    step = fitted.step("weight", hold).double()
    for name in held:
        assert abs(fitted.readouts[fitted.names.index(name)].double() @ step) < 1e-5
    # The step is a deviation long: in white coordinates its length is 1.
    inverse = torch.linalg.inv(torch.cov(z.double().T))
    assert step @ inverse @ step == pytest.approx(1, abs=1e-3)
    # Nothing shorter raises the label as far and leaves the others: Lagrange's condition.
    gradients = torch.stack([fitted.readouts[fitted.names.index(name)].double() for name in ["weight", *held]])
    left = inverse @ step
    solution = torch.linalg.lstsq(gradients.T, left[:, None]).solution
    torch.testing.assert_close(gradients.T @ solution, left[:, None], atol=1e-3, rtol=1e-3)


def test_categories_of_one_label_do_not_hold_each_other(fitted):
    torch.testing.assert_close(fitted.step("beard_full"), -fitted.step("beard_none"), atol=1e-4, rtol=1e-4)


def test_white_latents_are_projected_as_in_weights2weights(normal):
    readouts = normal(3, 6)
    directions = Directions(("a", "b", "c"), ("a", "b", "c"), readouts, torch.eye(6))
    a, b = readouts[0], readouts[1]
    projected = a - (a @ b) / (b @ b) * b
    torch.testing.assert_close(directions.step("a", ["b"]), projected / projected.norm(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(directions.step("a", "none"), a / a.norm())
    cosines = [torch.cosine_similarity(readouts[i], readouts[j], dim=0).abs() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert directions.similarity("none") == pytest.approx(sum(cosines).item() / 3, abs=1e-5)


def test_an_edit_keeps_what_the_space_does_not_know(space, zoo, fitted):
    z, weights = zoo
    change = fitted.change({"age": 2.0, "skin": -1.0}, "none")
    torch.testing.assert_close(change, 2 * fitted.step("age", "none") - fitted.step("skin", "none"))
    edited = edit(space, weights[:3], change)
    torch.testing.assert_close(space.encode(edited), z[:3] + change, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(edited - space.decode(z[:3] + change), weights[:3] - space.decode(z[:3]))
    torch.testing.assert_close(edit(space, weights[:3], fitted.change({})), weights[:3])
    own = torch.stack([change, 2 * change, 0 * change])
    torch.testing.assert_close(edit(space, weights[:3], own)[1], edit(space, weights[1:2], 2 * change)[0])


def test_people_without_a_label_do_not_count(space, zoo):
    z, weights = zoo
    table = pd.DataFrame({"person": PEOPLE, "age": z[:, 0]})
    table.loc[200:, "age"] = np.nan
    some = fit_directions(space, [weights], label_columns(table, PEOPLE, "labels.csv"), 0.1)
    alone = fit_directions(space, [weights[:200]], label_columns(table[:200], PEOPLE[:200], "labels.csv"), 0.1)
    torch.testing.assert_close(some.readouts, alone.readouts)
    assert not torch.allclose(some.covariance, alone.covariance)


def test_ridge_is_that_of_the_closed_form(space, zoo, normal):
    z, weights = zoo
    label = z[:, 0] + normal(400)
    table = pd.DataFrame({"person": PEOPLE, "age": label})
    found = fit_directions(space, [weights], label_columns(table, PEOPLE, "labels.csv"), 0.5).readouts[0]
    x, y = (each.double() - each.double().mean(0) for each in (z, label))
    expected = torch.linalg.solve(x.T @ x / 400 + 0.5 * torch.eye(5), x.T @ y / 400) / y.std(correction=0)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-4)


def test_round_trip(fitted, tmp_path):
    fitted.save(tmp_path / "directions.safetensors")
    read = Directions.load(tmp_path / "directions.safetensors")
    assert (read.names, read.groups) == (fitted.names, fitted.groups)
    assert torch.equal(read.readouts, fitted.readouts) and torch.equal(read.covariance, fitted.covariance)


def test_what_cannot_be_done_is_told(fitted, normal):
    with pytest.raises(ArgumentError, match=r"attribute: no label 'hat'\. Labels: age, weight, skin"):
        fitted.step("hat")
    with pytest.raises(ArgumentError, match=r"hold: no label 'hat'"):
        fitted.step("age", ["hat"])
    twins = normal(1, 4).repeat(2, 1)
    same = Directions(("male", "man"), ("male", "man"), twins, torch.eye(4))
    with pytest.raises(ArgumentError, match=r"hold: the labels held say all that male does\. Hold fewer"):
        same.step("male", ["man"])


def test_more_labels_than_dimensions_are_held_in_part(normal):
    names = tuple("abcdefg")
    crowded = Directions(names, names, normal(7, 3), torch.eye(3))
    for row, name in enumerate(names):
        held, free = crowded.step(name), crowded.step(name, "none")
        torch.testing.assert_close(held.norm(), torch.tensor(1.0))
        assert crowded.readouts[row] @ held > 0
        others = [other for other in range(7) if other != row]
        # In units of what the edit is for, others move less.
        moved = [(crowded.readouts[others] @ step).norm() / (crowded.readouts[row] @ step) for step in (held, free)]
        assert moved[0] < moved[1]


def test_labels_are_numbers_or_words():
    table = pd.DataFrame(
        {
            "person": ["c", "a", "b", "d"],
            "age": ["61", "", "20", "30"],
            "Male": [1, -1, -1, 1],
            "hair": ["red", "black", "", "red"],
            "same": [1, 1, 1, 1],
        }
    )
    told = label_columns(table, ["a", "b", "c", "a", "e"], "labels.csv")
    nan = np.nan
    assert list(told) == ["age", "Male", "hair_black", "hair_red"]
    np.testing.assert_array_equal(told["age"], [nan, 20, 61, nan, nan])
    np.testing.assert_array_equal(told["Male"], [-1, -1, 1, -1, nan])
    np.testing.assert_array_equal(told["hair_red"], [0, nan, 1, 0, nan])
    assert told.attrs["groups"] == {"age": "age", "Male": "Male", "hair_black": "hair", "hair_red": "hair"}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("name,age\na,1\nb,2\n", r"labels\.csv: person: column missing"),
        ("person,age\nx,1\ny,2\n", r"labels\.csv: person: nobody of the zoo is in the table"),
        ("person,age\na,1\na,2\n", r"labels\.csv: person: 'a' has two rows\. Keep one"),
        (
            "person,note\n" + "".join(f"{name},word {name}\n" for name in ["a", *PEOPLE[:50]]),
            r"labels\.csv: note: 51 different words, which are no label",
        ),
    ],
)
def test_a_table_that_has_no_labels_is_refused(tmp_path, table, words):
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(InputError, match=words):
        read_labels(tmp_path / "labels.csv", ["a", "b", *PEOPLE[:50]])


def test_strengths_are_lengths():
    with pytest.raises(ValueError, match="strengths"):
        EditParams(strengths=[0.0, 1.0])
    with pytest.raises(ValueError, match="strengths"):
        EditParams(strengths=[])
