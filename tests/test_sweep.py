"""The sweep resumes from photos of the right people, for any number of people per group."""

import torch

from w2wpp.files.settings import with_changes
from w2wpp.run.sweep import Sweep
from w2wpp.world.drawing import draw
from w2wpp.world.populations import held_out_people


def test_held_out_people_have_their_own_photos_when_fewer_are_of_a_group(params, tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "zoo").mkdir()
    few = {"size": 32, "photos": 3, "score_photos": 2}
    for split, validation, test in (("test", 2, 3), ("test", 3, 2), ("validation", 3, 2)):
        counts = few | {"validation": validation, "test": test}
        changes = {f"portraits.{key}": value for key, value in counts.items()}
        settings = with_changes(params, changes | {"collect.photos": 1, "split": split})
        sweep = Sweep(settings, tmp_path / "base", tmp_path / "zoo", tmp_path, tmp_path / "scratch")
        _, splits, people = held_out_people(settings.seed, settings.portraits)
        shown = [person for person, each in zip(people, splits, strict=True) if each == split]
        assert torch.equal(sweep.held_out.images, draw(shown, 32))
