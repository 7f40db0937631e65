"""Work in progress is found again by the same recipe and version, and by no other."""

import json

from w2wpp.compute import resume
from w2wpp.compute.resume import scratch_folder


def test_the_folder_follows_task_recipe_and_version(tmp_path, monkeypatch):
    recipe = {"seed": 0, "collect": {"steps": 3, "lr": 0.1}, "inputs": ["ab"]}
    folder = scratch_folder(tmp_path, "loras", **recipe)
    assert folder.is_dir() and folder.name.startswith("loras-")
    assert scratch_folder(tmp_path, "loras", **json.loads(json.dumps(recipe))) == folder
    changed = [recipe | {"seed": 1}, recipe | {"inputs": ["ac"]}, recipe | {"collect": {"steps": 4, "lr": 0.1}}]
    others = {scratch_folder(tmp_path, "loras", **each) for each in changed}
    others.add(scratch_folder(tmp_path, "vae", **recipe))
    assert len(others | {folder}) == 5
    monkeypatch.setitem(resume.VERSIONS, "loras", resume.VERSIONS["loras"] + 1)
    assert scratch_folder(tmp_path, "loras", **recipe) not in others | {folder}
