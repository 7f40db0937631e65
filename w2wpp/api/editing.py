"""People edited along directions of attributes: what `w2wpp.edit` does."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from w2wpp.api import artifacts
from w2wpp.api.person import Lora, Person, Space, decode, encode, the_space
from w2wpp.files.errors import ArgumentError
from w2wpp.files.folders import expanded
from w2wpp.inversion import editing
from w2wpp.inversion.editing import Directions, EditParams
from w2wpp.lora.weights import read_weights
from w2wpp.spaces.base import WeightSpace

_BLOCK = 256


def edit(
    space: Space,
    person: Lora,
    changes: Mapping[str, float],
    hold_others: bool | Sequence[str] = True,
    directions: Directions | str | Path = "auto",
) -> Person:
    """A person with attributes changed, such as {"glasses": 3.0, "age": -2.0}.

    What the person's LoRA has outside the space stays.

    Args:
        space: a space, or see `load_space`.
        person: any LoRA of the layout of the space.
        changes: by label, in standard deviations of the zoo along its direction. Measured edits take 2 to 7.
        hold_others: whether the direction of a label leaves all other labels; or those that it leaves.
        directions: or their file; "auto" is what the pipeline left for the space in data/edits.

    Raises:
        ArgumentError: naming `directions`: there are none, or they are of another space; `attribute`: no such label;
            `hold`: the labels held say all that one of these does; or `person`: of another layout.
    """
    space = the_space(space)
    if person.layout.hash != space.layout.hash:
        raise ArgumentError(None, "person", "a LoRA of another layout than the space", "Read it with this space")
    found = the_directions(space, directions)
    hold = hold_others if not isinstance(hold_others, bool) else "all" if hold_others else "none"
    before = encode(person.weights, space)
    after = space.prior.unwhiten(space.prior.whiten(before) + found.change(changes, hold))
    return Person(person.weights + decode(after, space) - decode(before, space), space.layout, after, space)


def the_directions(space: WeightSpace, directions: Directions | str | Path = "auto") -> Directions:
    """Directions of a space, read if they are not yet.

    Raises:
        ArgumentError: naming `directions`: there are none, or they are of another space.
    """
    if isinstance(directions, (str, Path)):
        file = artifacts.directions_beside(space.file) if directions == "auto" else expanded(directions)
        if file is None or not file.is_file():
            raise ArgumentError(
                None,
                "directions",
                f"no file {file}" if file else "none lie beside this space",
                "Run `dvc repro edit`, give their file, or learn them from labels",
            )
        directions = Directions.load(file)
    if directions.readouts.shape[1] != space.latent_dim:
        raise ArgumentError(None, "directions", "of another space", "Give those that were learned in this one")
    return directions


def learn_directions(
    space: Space,
    labels: str | Path,
    weights: str | Path = artifacts.WEIGHTS,
    ridge: float | None = None,
) -> Directions:
    """Directions of a space from labels of one's own.

    Args:
        space: a space, or see `load_space`.
        labels: a CSV with a column `person`, named as in people.csv of `weights`, and one of numbers or words for each
            label.
        weights: folder of the zoo's weight vectors.
        ridge: penalty per labelled LoRA; by default `EditParams.ridge`.

    Raises:
        InputError: a file is missing or malformed (see `w2wpp.inversion.editing.label_columns`).
    """
    space, data = the_space(space), read_weights(weights)
    table = editing.read_labels(labels, data.names("zoo"))
    blocks = (block.float() for block in data.zoo.blocks(_BLOCK))
    return editing.fit_directions(space, blocks, table, EditParams().ridge if ridge is None else ridge)
