"""The README's experiments lead back to the start, even in a clone whose dvc.lock another machine wrote."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from w2wpp.run.profile import apply_profile

ROOT = Path(__file__).parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
# Computed outputs round differently on another machine, and seconds differ between runs.
STAGE = """
import json, os, pathlib, sys, time, yaml
params, out, *given = yaml.safe_load(open("params.yaml")), *sys.argv[1:]
with open(os.environ["RUNS"], "a") as runs:
    runs.write(out + chr(10))
files = [file for each in given for file in [each, *sorted(pathlib.Path(each).rglob("*"))]]
before = [pathlib.Path(file).read_text() for file in files if pathlib.Path(file).is_file()]
text = "".join(before) + out + json.dumps([params["vae"], params["flatten"], params["photo_encoder"], params["space"]])
if out.startswith("metrics"):
    text = json.dumps({"id_score": sum(map(ord, text)) % 997 / 1000})
elif out == "data/zoo":
    text, out = params["collect"]["source"], out + "/" + params["collect"]["source"] + ".csv"
    if text != "zoo":
        pathlib.Path("data/zoo/loras").mkdir(parents=True)
        pathlib.Path("data/zoo/loras/0.safetensors").write_text(text)
else:
    text += os.environ["MACHINE"]
pathlib.Path(out).parent.mkdir(parents=True, exist_ok=True)
pathlib.Path(out).write_text(text)
if out == "data/inversions":
    pathlib.Path("data/seconds").write_text(str(time.time()))
"""
PIPELINE = """
stages:
  settings: {cmd: echo settings >> $RUNS, deps: [params.yaml]}
  collect: {cmd: python stage.py data/zoo, deps: [stage.py], params: [collect], outs: [{data/zoo: {cache: false}}]}
  vae:
    cmd: python stage.py data/space data/zoo
    deps: [stage.py, data/zoo]
    params: [vae, flatten]
    outs: [data/space]
  invert:
    cmd: python stage.py data/inversions data/space
    deps: [stage.py, data/space]
    params: [photo_encoder]
    outs: [data/inversions, {data/seconds: {cache: false}}]
  compare:
    cmd: python stage.py metrics/inversion.json data/inversions data/seconds
    deps: [stage.py, data/inversions, data/seconds]
    params: [space]
    metrics: [{metrics/inversion.json: {cache: false}}]
"""


class Clone:
    """A clone of the repository on some machine."""

    def __init__(self, folder: Path, machine: str, runs: Path) -> None:
        self.folder, self.runs = folder, runs
        self.environment = os.environ | {"MACHINE": machine, "RUNS": str(runs)}

    def run(self, command: str, ok: bool = True) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, shell=True, capture_output=True, text=True
        )
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        return done.stdout

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and not {".git", ".dvc"} & set(path.relative_to(self.folder).parts)
        }

    def revision(self, experiment: str) -> str:
        return next(
            line.split()[1]
            for line in self.run("git for-each-ref --format='%(refname) %(objectname)' refs/exps").splitlines()
            if line.split()[0].endswith(f"/{experiment}")
        )

    def stages_run(self) -> int:
        return len(self.runs.read_text().splitlines())


def commands() -> list[str]:
    blocks = (ROOT / "README.md").read_text().split("```")[1::2]
    block = next(block.lstrip() for block in blocks if "dvc exp run" in block)
    return [line.split(" #")[0].strip() for line in block.splitlines()]


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Clone:
    folder = tmp_path_factory.mktemp("way_back")
    first = Clone(folder / "first", "another", folder / "another.log")
    first.folder.mkdir()
    shutil.copy(ROOT / "params.yaml", first.folder)
    (first.folder / "stage.py").write_text(STAGE)
    (first.folder / "dvc.yaml").write_text(PIPELINE)
    (first.folder / ".gitignore").write_text("data/zoo/loras\n")
    named = "git config user.name tester && git config user.email tester@example.org"
    first.run(f"git init -q && {named} && dvc init -q && dvc config core.analytics false && dvc repro")
    # Where dependencies leave it open, dvc follows the order of dvc.yaml.
    assert first.runs.read_text().splitlines()[0] == "settings" == next(iter(STAGES))
    first.run("git add -A && git commit -qm first && git clone -q . ../clone")
    clone = Clone(folder / "clone", "this", folder / "this.log")
    clone.run(f"{named} && dvc repro")
    assert "dvc.lock" in clone.run("git diff --name-only")
    (clone.folder / "notes.txt").write_text("not tracked")
    before, computed = clone.files(), clone.stages_run()
    clone.run(commands()[0])
    assert clone.files() == before and clone.stages_run() == computed
    return clone


def test_the_readmes_experiments_lead_back(clone):
    before, printed = clone.files(), {}
    back = [command for command in commands() if "apply" in command]
    assert back
    for command in commands()[1:]:
        if "metrics show" in command:
            continue  # of stages that this miniature lacks
        computed = clone.stages_run()
        printed[command] = clone.run(command)
        if command in back:
            assert clone.files() == before
            assert clone.stages_run() == computed
        elif " -S " in command:
            assert clone.stages_run() > computed and clone.files() != before
        else:
            assert clone.stages_run() == computed
    assert "didn't change" in clone.run("dvc repro") and clone.files() == before
    assert change_of(printed["dvc metrics diff HEAD pca-baseline"], clone, "HEAD")


def change_of(comparison: str, clone: Clone, before: str) -> float:
    """The change of the ID score that a comparison with the baseline prints, after checking both scores beside it."""
    row = next(line.split() for line in comparison.splitlines() if "id_score" in line)
    assert row[:2] == ["metrics/inversion.json", "id_score"]
    scores = [
        json.loads(clone.run(f"git show {revision}:metrics/inversion.json"))["id_score"]
        for revision in (before, clone.revision("pca-baseline"))
    ]
    assert [float(each) for each in row[2:]] == pytest.approx([*scores, scores[1] - scores[0]])
    return scores[1] - scores[0]


def test_the_readmes_comparisons_of_an_experiment(clone):
    """With what was committed, with what this machine computes, and with the workspace that is the experiment."""
    back = next(command for command in commands() if "apply" in command)
    readme = (ROOT / "README.md").read_text()
    for command in ("dvc metrics diff pca-baseline", "dvc metrics diff HEAD pca-baseline"):
        assert command in readme
    clone.run("dvc exp apply pca-baseline")
    assert clone.run("dvc metrics diff pca-baseline").strip() == ""
    clone.run(back)
    committed = change_of(clone.run("dvc metrics diff HEAD pca-baseline"), clone, "HEAD")
    here = change_of(clone.run("dvc metrics diff start pca-baseline"), clone, clone.revision("start"))
    assert committed and here and committed != here  # as the other machine rounds differently


def test_the_way_back_from_stable_diffusion(clone):
    """From a zoo that git does not track, in the place of the tracked one."""
    blocks = (ROOT / "docs/how-to/sd15.md").read_text().split("```")[1::2]
    back = next(block.strip() for block in blocks if "dvc exp apply" in block)
    before = clone.files()
    apply_profile(ROOT / "profiles/sd15.yaml", clone.folder / "params.yaml")
    clone.run("dvc repro")
    computed = clone.stages_run()
    assert "data/zoo/loras/0.safetensors" in clone.files() and "data/zoo/zoo.csv" not in clone.files()
    clone.run(back)
    assert clone.files() == before
    assert "didn't change" in clone.run("dvc repro") and clone.stages_run() == computed


def test_the_way_back_brings_back_what_a_lock_of_another_machine_deletes(clone):
    before, (back, *_) = clone.files(), [command for command in commands() if "apply" in command]
    clone.run("git checkout . && dvc checkout", ok=False)  # the README warns of this
    assert {"data/space", "data/inversions"}.isdisjoint(clone.files())
    clone.run(back)
    assert clone.files() == before
    shutil.rmtree(clone.folder / "data")  # as after an interrupted stage
    clone.run(back)
    assert clone.files() == before
