"""The whole pipeline on tiny params in a temporary clone, used as in the README."""

import html
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from trees import leaves

from w2wpp.diffusion.denoising import generate
from w2wpp.diffusion.pipeline import load_pipeline
from w2wpp.diffusion.prompts import IDENTITY_PROMPT
from w2wpp.files.storage import read_pack
from w2wpp.lora.export import export_lora
from w2wpp.lora.weights import read_weights
from w2wpp.run.params import load_params
from w2wpp.spaces.registry import METHODS, load_space

ROOT = Path(__file__).parents[1]
TINY = {
    "portraits": {"photos": 4, "score_photos": 2, "validation": 3, "test": 4},
    "lora": {"targets": ["proj_in", "attn1.to_v"], "blocks": ["up_blocks"]},
    "collect": {
        "people": 8,
        "repeated": 3,
        "photos": 2,
        "start": "gradients",
        "start_people": 4,
        "start_photos": 2,
        "trained": "B",
        "steps": 2,
        "mirrored": True,
        "class_images": 4,
        "class_images_per_step": 1,
        "people_at_once": 3,
    },
    "probe": {"people": 16, "photos": 1, "steps": 5},
    "restorer": {"people": 16, "photos": 1, "steps": 5},
    "outside": {"seeds": 2, "dreambooth_steps": 2, "probe_people": 8},
    "linear": {"inputs": 2},
    "vae": {"latent_dim": 4, "width": 16, "epochs": 5},
    "sample": {"people": 3, "seeds": 1, "scored": 6, "donors": 5},
    "interpolate": {"pairs": 2, "steps": 3},
    "photo_encoder": {"photos": 2},
    "edit": {"strengths": [1.0, 2.0], "people": 3},
    "invert": {"steps": 2, "timesteps_per_step": 1, "people_at_once": 4},
    "generate": {"inference_steps": 4},
    "evaluate": {"seeds": 2, "class_samples": 8, "prompted_samples": 2, "bootstrap": 100},
    "sweep": {"dimensions": [4, 9], "people": [], "parts": False},
}


class Clone:
    def __init__(self, folder: Path):
        self.folder = folder

    def run(self, *command: str, ok: bool = True) -> str:
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=800)
        output = done.stdout + done.stderr
        assert (done.returncode == 0) == ok, f"{' '.join(command)} gave {done.returncode}:\n{output[-4000:]}"
        return output

    def metrics(self, name: str) -> dict:
        return json.loads((self.folder / f"metrics/{name}.json").read_text())

    def ran(self, output: str) -> set[str]:
        return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Clone:
    """The working tree with tiny params, committed in a repository of its own, after one `dvc repro`."""
    folder = tmp_path_factory.mktemp("clone")
    listed = subprocess.check_output(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, text=True)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("data/zoo/", "reports/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    # The shipped sweep is frozen, as it takes hours; here it is measured, too.
    stages = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(stages.replace("    frozen: true\n", ""))
    params = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"split": "test"}
    for section, values in TINY.items():
        params[section].update(values)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    clone = Clone(folder)
    clone.run("git", "init", "-q")
    clone.run("git", "config", "user.name", "tester")
    clone.run("git", "config", "user.email", "tester@example.org")
    clone.output = clone.run("dvc", "repro")
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "tiny")
    return clone


def test_shipped_base_is_not_trained_again(clone):
    assert "base" not in clone.ran(clone.output)
    assert {"collect", *METHODS, *(f"evaluate@{name}" for name in METHODS), "report"} <= clone.ran(clone.output)


def test_metrics_trees_are_identical_and_finite(clone):
    trees = [leaves(clone.metrics(name)) for name in METHODS]
    assert all(tree.keys() == trees[0].keys() for tree in trees)
    assert {"inversion.id_score", "inversion.tar_at_far1", "reconstruction.rel_mse", "sampling.diversity"} <= trees[
        0
    ].keys()
    assert all(isinstance(value, (int, float)) for tree in trees for value in tree.values())
    assert clone.metrics("inversion") == clone.metrics("vae")["inversion"]
    of_people = [clone.metrics(name)["sampling"].keys() for name in ("world", "zoo")]
    assert (
        of_people[0]
        == of_people[1]
        == clone.metrics("vae")["sampling"].keys()
        - {
            "diversity",
            "face_found",
            "kinship",
            "novelty",
        }
    )
    assert clone.metrics("comparison")["people"] <= TINY["portraits"]["test"]


def test_second_recogniser_scores_the_same_people(clone):
    second, comparison = clone.metrics("second_opinion"), clone.metrics("comparison")
    assert "arcface" not in clone.ran(clone.output)
    assert second["verification_auc"] > 0.8
    assert {"true", "one-photo", "nearest", *(f"{name}_inversion" for name in METHODS)} <= second.keys()
    assert comparison["second_opinion"]["people"] == comparison["people"]
    assert comparison["second_opinion"]["gain"] != comparison["gain"]


def test_the_sweep_measures_what_the_stages_do(clone):
    assert "sweep" in clone.ran(clone.output)
    assert "sweep: 8 zoo people are too few for PCA-9-0-8, function-weighted-PCA-9-0-8, VAE-9-0-8" in clone.output
    lines = pd.read_csv(clone.folder / "data/sweep/dimensions.csv").set_index(["recognizer", "variant"])
    assert set(lines["latent_dim"]) == {4} and set(lines["people"]) == {TINY["collect"]["people"]}
    comparison, second = clone.metrics("comparison"), clone.metrics("second_opinion")
    for space, variant in zip(METHODS, ("PCA", "function-weighted PCA", "VAE"), strict=True):
        first = clone.metrics(space)["inversion"]
        for recognizer, scores in (("dlib", first), ("arcface", second[f"{space}_inversion"])):
            line = lines.loc[recognizer, variant]
            assert all(line[key] == scores[key] for key in ("id_score", "id_score_low", "id_score_high"))
    for recognizer, tree in (("dlib", comparison), ("arcface", comparison["second_opinion"])):
        assert tree["gain_at"] == {"k4": tree["gain"]}
        assert tree["gain_over_linear"]["mean"] == lines.loc[recognizer, "VAE"]["nonlinear"]


def test_references_tell_of_prompts_and_of_chance(clone):
    zoo, base = clone.metrics("zoo"), clone.metrics("base")
    assert 0 <= zoo["prompt_accuracy"] <= 1 and zoo["id_obeyed_low"] <= zoo["id_obeyed"] <= zoo["id_obeyed_high"]
    assert {"hair", "sex", "age", "expression", "background"} <= base["prompt_accuracy"].keys()
    assert zoo["variance"]["within"] >= 0
    assert zoo["variance"]["within"] + zoo["variance"]["between"] == pytest.approx(1, abs=1e-3)


def test_true_lora_metrics_are_of_test_people_and_report_is_self_contained(clone):
    page = (clone.folder / "reports/index.html").read_text()
    assert "data:image/png;base64," in page
    assert 'src="http' not in page and "<script src" not in page
    assert "sweep_dimensions" in page and "sweep_rungs" not in page
    assert len(list((clone.folder / "reports/figures").glob("*.png"))) >= 8


def test_second_repro_runs_nothing(clone):
    assert clone.ran(clone.run("dvc", "repro")) == set()


def test_killed_shards_of_collect_end_with_the_same_bytes(clone, tmp_path):
    command = ["python", "stages/collect.py", "--out", str(tmp_path / "zoo"), "--scratch", str(tmp_path / "scratch")]
    shards = [[*command, "--shard", f"{number}/2"] for number in (1, 2)]
    moments = random.Random(0)
    for _ in range(3):
        running = [
            subprocess.Popen(
                shard, cwd=clone.folder, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            for shard in shards
        ]
        time.sleep(moments.uniform(4, 16))
        for stage in running:
            os.killpg(stage.pid, signal.SIGKILL)
            stage.wait()
    with ThreadPoolExecutor(2) as pool:
        printed = list(pool.map(lambda shard: clone.run(*shard), shards))
    assert all("Run without --shard to merge" in text for text in printed)
    assert not (tmp_path / "zoo").exists()
    clone.run(*command)
    whole = clone.folder / "data/zoo"
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert Path("loras/zoo-zoo-00000.safetensors") in files
    assert files == sorted(
        path.relative_to(tmp_path / "zoo") for path in (tmp_path / "zoo").rglob("*") if path.is_file()
    )
    assert all((whole / file).read_bytes() == (tmp_path / "zoo" / file).read_bytes() for file in files)


@pytest.mark.parametrize("origin", ["zoo", "sampled", "inverted"])
def test_exported_lora_draws_what_the_batched_path_drew(clone, origin, tmp_path):
    data, drawing = clone.folder / "data", load_params(clone.folder / "params.yaml").generate
    space = load_space(data / "spaces/vae/space.safetensors")
    if origin == "zoo":
        weights, file = read_weights(data / "weights").of("zoo")[:1], tmp_path / "zoo.safetensors"
        export_lora(file, weights[0], space.layout)
    elif origin == "sampled":
        file = data / "samples/vae/sample-0.safetensors"
        sampled, meta = read_pack(data / "samples/vae/pictures.safetensors")
        weights = space.complete(sampled["z"][:1])
    else:
        file = data / "inversions/vae/loras/test-00000.safetensors"
        tensors, meta = read_pack(data / "inversions/vae/latents.safetensors")
        weights = space.decode(tensors["z"][[meta["people"].index("test-00000")]])

    pipe = load_pipeline(data / "base")
    batched = generate(pipe, space.layout, weights, [IDENTITY_PROMPT], 1, drawing, origin)[0, 0, 0]
    if origin == "sampled":
        prompted = generate(pipe, space.layout, weights, meta["prompts"][1:2], 1, drawing.prompted, origin)[0, 0, 0]
        for picture, kept in zip((batched, prompted), sampled["pictures"][0, :2, 0], strict=True):
            assert (picture.int() - kept.int()).abs().max() <= 2
    start = torch.randn((1, pipe.unet.config.in_channels, 8, 8), generator=torch.Generator().manual_seed(0))

    def draw() -> torch.Tensor:
        pixels = pipe(
            IDENTITY_PROMPT,
            latents=start,
            num_inference_steps=drawing.inference_steps,
            guidance_scale=drawing.guidance,
            output_type="pt",
        ).images[0]
        return (pixels * 255).round().permute(1, 2, 0)

    without = draw()
    pipe.load_lora_weights(str(file))
    assert (draw() - batched).abs().max() <= 2
    assert (without - batched).abs().max() > 2


def test_the_example_of_the_readme_draws_a_person(clone, tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "data").symlink_to(clone.folder / "data")
    subprocess.run(["python", "-c", example], cwd=tmp_path, check=True)
    assert Image.open(tmp_path / "person.png").size == (64, 64)


def test_same_seed_gives_same_bytes(clone):
    for run in ("a", "b"):
        clone.run(
            "python",
            "stages/fit.py",
            "--space",
            "vae",
            "--out",
            f"again/{run}/spaces",
            "--scratch",
            f"again/{run}/scratch",
        )
        invert = [
            "python",
            "stages/invert.py",
            "--space",
            "vae",
            "--spaces",
            f"again/{run}/spaces",
            "--encoders",
            f"again/{run}/photo_encoders",
            "--out",
            f"again/{run}/inversions",
            "--out_timing",
            f"again/{run}/timing",
            "--scratch",
            f"again/{run}/scratch",
        ]
        clone.run(
            "python",
            "stages/photo_encoder.py",
            "--space",
            "vae",
            "--spaces",
            f"again/{run}/spaces",
            "--out",
            f"again/{run}/photo_encoders",
            "--scratch",
            f"again/{run}/scratch",
        )
        if run == "b":
            clone.run(*invert, "--shard", "2/2")
        clone.run(*invert)
    for file in (
        "spaces/vae/space.safetensors",
        "photo_encoders/vae.safetensors",
        "inversions/vae/latents.safetensors",
    ):
        once, twice = ((clone.folder / "again" / run / file).read_bytes() for run in ("a", "b"))
        assert once == twice
        assert once == (clone.folder / "data" / file).read_bytes()
    shutil.rmtree(clone.folder / "again")


def test_latent_dim_experiment_reruns_only_what_depends_on_it(clone):
    ran = clone.ran(clone.run("dvc", "exp", "run", "-S", "vae.latent_dim=3"))
    by_space = ("sample", "interpolate", "photo_encoder", "invert", "outside", "edit", "evaluate")
    assert ran == {
        "settings",
        *METHODS,
        *(f"{stage}@{name}" for stage in by_space for name in METHODS),
        "second_opinion",
        "compare",
        "report",
    }
    assert [clone.metrics(name)["latent_dim"] for name in METHODS] == [3, 3, 3]
    assert clone.metrics("comparison")["gain_at"].keys() == {"k4"}


def test_a_dimension_of_one_space_and_a_recogniser_leave_the_other_spaces_and_the_sweep(clone):
    clone.run("git", "checkout", "-q", ".")
    output = clone.run("dvc", "exp", "run", "-S", "pca.latent_dim=3", "-S", "second_recognizer=dlib")
    assert not {stage for stage in clone.ran(output) if "vae" in stage or "linear" in stage or "sweep" in stage}
    assert [clone.metrics(name)["latent_dim"] for name in METHODS] == [3, 4, 4]
    reason = "the sweep was made with another second_recognizer.name ('arcface' there, 'dlib' here)"
    assert f"compare: gains at other dimensions are left out: {reason}" in output
    comparison = clone.metrics("comparison")
    assert "gain_at" not in comparison and "gain_at" not in comparison["second_opinion"]
    page = html.unescape((clone.folder / "reports/index.html").read_text())
    assert reason in page and "sweep_dimensions" not in page


def test_pca_baseline_experiment_and_metrics_diff(clone):
    clone.run("git", "checkout", "-q", ".")
    ran = clone.ran(clone.run("dvc", "exp", "run", "-S", "space=pca", "-n", "pca-baseline"))
    assert ran == {"settings", "compare"}
    assert clone.metrics("inversion") == clone.metrics("pca")["inversion"]
    diff = clone.run("dvc", "metrics", "diff", "HEAD", "pca-baseline")
    assert "metrics/inversion.json" in diff and "id_score" in diff
    assert len(diff.splitlines()) < 60
    clone.run("git", "checkout", "-q", ".")


@pytest.mark.parametrize(
    "change, words",
    [
        ("pca.latent_dim=400", ["pca.latent_dim", "1 .. 7"]),
        ("linear.latent_dim=8", ["linear.latent_dim", "1 .. 7"]),
        ("+vae.latentdim=8", ["vae.latentdim", "unknown key", "latent_dim"]),
        ("+vaee.latent_dim=8", ["vaee", "unknown key"]),
        ("vae.kl.schedule=cosine", ["vae.kl.schedule", "monotonic"]),
    ],
)
def test_wrong_parameter_is_one_clear_error(clone, change, words):
    before = (clone.folder / "data/weights/statistics.safetensors").read_bytes()
    output = clone.run("dvc", "exp", "run", "-S", change, ok=False)
    line = next(line for line in output.splitlines() if line.startswith("error:"))
    assert all(word in line for word in words), line
    assert (clone.folder / "data/weights/statistics.safetensors").read_bytes() == before
    clone.run("git", "checkout", "-q", ".")


def test_corrupt_input_is_one_clear_error(clone):
    pack = clone.folder / "data/zoo/loras/zoo-zoo-00000.safetensors"
    whole = pack.read_bytes()
    pack.write_bytes(whole[:1000])
    output = clone.run("python", "stages/flatten.py", "--out", "elsewhere", ok=False)
    pack.write_bytes(whole)
    assert output.strip().splitlines()[-1].startswith("error: data/zoo/loras/zoo-zoo-00000.safetensors")


def test_every_stage_has_help(clone):
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        stages = sorted((ROOT / "stages").glob("*.py"))
        helps = list(pool.map(lambda stage: clone.run("python", str(stage), "--help"), stages))
    assert stages and all("--params" in text for text in helps)
