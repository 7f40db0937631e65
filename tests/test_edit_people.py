"""People edited through the front door."""

import pytest
import torch

import w2wpp
from w2wpp.api.person import draw
from w2wpp.files.errors import ArgumentError
from w2wpp.inversion.editing import fit_directions, read_labels


@pytest.fixture
def directions(repro, save_directions):
    """Of the space pca in the current directory."""
    return save_directions("pca")


def test_an_edit_moves_z_along_the_directions(directions):
    person = w2wpp.sample("pca", 3)
    edited = person.edit({"age": 2.0, "glasses": -1.0})
    torch.testing.assert_close(edited.z, person.z + 2 * directions.step("age") - directions.step("glasses"))
    torch.testing.assert_close(edited.weights, w2wpp.Person.at(edited.z, "pca").weights)
    alone = w2wpp.edit("pca", person, {"age": 2.0}, hold_others=False)
    torch.testing.assert_close(alone.z, person.z + 2 * directions.step("age", "none"))
    assert (alone.z - person.edit({"age": 2.0}).z).abs().max() > 0.1
    some = person.edit({"age": 2.0}, hold_others=["glasses"], directions=directions)
    torch.testing.assert_close(some.z, person.edit({"age": 2.0}).z)
    torch.testing.assert_close(person.edit({}).weights, person.weights)


def test_an_edit_keeps_what_the_space_lacks(directions, draw_weights, layout, tmp_path):
    weights = draw_weights(layout, 1, seed=9)[0]
    lora = w2wpp.Lora(weights, layout)
    edited = w2wpp.edit("pca", lora, {"age": 2.0})
    z = w2wpp.encode(weights, "pca")
    difference = w2wpp.decode(z + 2 * directions.step("age"), "pca") - w2wpp.decode(z, "pca")
    torch.testing.assert_close(edited.weights, weights + difference, atol=1e-5, rtol=1e-5)
    assert (edited.weights - w2wpp.decode(edited.z, "pca")).abs().max() > 0.01


def test_directions_are_learned_from_labels_of_ones_own(repro, save_zoo):
    vectors = save_zoo()
    (repro / "mine.csv").write_text(
        "person,tall,hat\n" + "".join(f"zoo-{n},{n % 5},{'yn'[n % 2]}\n" for n in range(10))
    )
    learned = w2wpp.learn_directions("pca", repro / "mine.csv")
    labels = read_labels(repro / "mine.csv", [f"zoo-{n}" for n in range(12)])
    expected = fit_directions(w2wpp.load_space("pca"), [vectors], labels, 0.03)
    assert learned.names == expected.names == ("tall", "hat_n", "hat_y")
    torch.testing.assert_close(learned.readouts, expected.readouts)


def test_details_alone_are_edited_at_late_timesteps(directions, pipe):
    person = w2wpp.sample("pca", 3)
    edited, few = person.edit({"age": 5.0}), w2wpp.GenerateParams(inference_steps=4)
    before, after = draw([person, edited], base=pipe, settings=few)
    assert torch.equal(draw([edited], base=pipe, settings=few, before=(person, 1000))[0], after)
    assert torch.equal(draw([edited], base=pipe, settings=few, before=(person, 0))[0], before)
    middle = draw([edited], base=pipe, settings=few, before=(person, 500))[0]
    assert not torch.equal(middle, before) and not torch.equal(middle, after)


def test_what_does_not_fit_is_refused(repro, directions, toy_layout):
    person = w2wpp.sample("pca", 3)
    with pytest.raises(ArgumentError, match="person: a LoRA of another layout"):
        w2wpp.edit("pca", w2wpp.Lora(torch.zeros(30), toy_layout), {"age": 1.0})
    with pytest.raises(ArgumentError, match=r"attribute: no label 'hat'\. Labels: age, glasses"):
        person.edit({"hat": 1.0})
    with pytest.raises(ArgumentError, match="directions: no file nowhere"):
        person.edit({"age": 1.0}, directions="nowhere")
    with pytest.raises(ArgumentError, match="directions: no file ~nobody-here/file"):
        person.edit({"age": 1.0}, directions="~nobody-here/file")
    space = w2wpp.load_space("pca")
    space.file = None
    with pytest.raises(ArgumentError, match=r"directions: none lie beside this space\. Run `dvc repro edit`"):
        w2wpp.edit(space, person, {"age": 1.0})
    two = type(directions)(("age",), ("age",), torch.ones(1, 2), torch.eye(2))
    with pytest.raises(ArgumentError, match="directions: of another space"):
        person.edit({"age": 1.0}, directions=two)
