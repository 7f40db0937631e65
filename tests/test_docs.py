"""The pages on settings, metrics and spaces agree with the code and the metrics."""

import json
import re
import runpy
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import BaseModel, Field

from w2wpp.spaces.registry import METHODS

ROOT = Path(__file__).parents[1]
METRICS = sorted((ROOT / "metrics").glob("*.json"))


def parameters_page(model: type[BaseModel]) -> str:
    return runpy.run_path(str(ROOT / "docs/generate_parameters.py"))["page"](model)


def leaves(tree: dict, prefix: str = "") -> dict[str, object]:
    found = {}
    for key, value in tree.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def first_cells(page: str) -> list[str]:
    return re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE)


def test_parameters_page_has_a_row_for_every_key_of_params_yaml():
    from w2wpp.run.params import Params

    keys = leaves(yaml.safe_load((ROOT / "params.yaml").read_text()))
    rows = [cell.strip("`") for cell in first_cells(parameters_page(Params))]
    assert len(rows) == len(set(rows))
    assert keys and keys.keys() - set(rows) == set()


def test_parameters_page_says_type_default_range_and_meaning():
    class Codec(BaseModel):
        """Of latents."""

        widths: Annotated[tuple[int, int], Field(description="of the two\nlayers")] = (96, 160)

    class Base(BaseModel):
        source: Literal["trained", "pretrained"] = "trained"
        lr: Annotated[float, Field(gt=0, le=1, description="learning rate")] = 1.0e-3
        ridge: Annotated[float, Field(gt=0)] | None = None
        blocks: list[Annotated[int, Field(ge=1)]] = Field(default_factory=lambda: [3], min_length=1)
        codec: Codec = Codec()

    class Settings(BaseModel):
        seed: Annotated[int, Field(ge=0, multiple_of=2)]
        recognizer: Literal["arcface"] | str = Field("dlib", description="dlib | insightface:<pack> or\n`<path>`")
        base: Base = Field(Base(), description="The base model.")

    page = parameters_page(Settings)
    assert [line for line in page.splitlines() if line.startswith(("##", "| `", "The base", "Of "))] == [
        "## General",
        "| `seed` | integer | none | ≥ 0, multiple of 2 |  |",
        r"| `recognizer` | string | `dlib` |  | dlib \| insightface:&lt;pack> or `<path>` |",
        "## base",
        "The base model.",
        "| `base.source` | string | `trained` | `trained`, `pretrained` |  |",
        "| `base.lr` | number | `0.001` | > 0, ≤ 1 | learning rate |",
        "| `base.ridge` | number or null | `null` | > 0 |  |",
        "| `base.blocks` | list of integers | `[3]` | at least 1, each ≥ 1 |  |",
        "## base.codec",
        "Of latents.",
        "| `base.codec.widths` | list of 2 integers | `[96,160]` |  | of the two layers |",
    ]


def described_metrics() -> dict[str, list[str]]:
    """Keys with placeholders, by file, in docs/reference/metrics.md."""
    page = (ROOT / "docs/reference/metrics.md").read_text()
    sections = re.split(r"^## metrics/(\S+)\.json$", page, flags=re.MULTILINE)[1:]
    return {
        name: [key for cells in first_cells(text) for key in re.findall("`(.+?)`", cells)]
        for name, text in zip(sections[::2], sections[1::2], strict=True)
    }


@pytest.mark.parametrize("file", METRICS, ids=lambda path: path.stem)
def test_metrics_page_has_every_key(file):
    sections = described_metrics()
    rows = [re.sub(r"<\w+>", r"[\\w-]+", re.escape(row)) for row in sections.get(file.stem, sections["<space>"])]
    missing = [key for key in leaves(json.loads(file.read_text())) if not any(re.fullmatch(row, key) for row in rows)]
    assert missing == [], "describe them in docs/reference/metrics.md"


def test_metrics_page_has_no_key_that_the_code_does_not_know():
    code = "".join(path.read_text() for folder in ("stages", "w2wpp") for path in (ROOT / folder).rglob("*.py"))
    parts = {part for rows in described_metrics().values() for row in rows for part in row.split(".")}
    assert [part for part in sorted(parts) if "<" not in part and f'"{part}"' not in code] == []


def test_model_card_shows_the_metrics():
    card = (ROOT / "model_card.md").read_text()
    spaces = [leaves(json.loads((ROOT / f"metrics/{space}.json").read_text())) for space in METHODS]
    numbers = r" ([\d.]+) \|" * len(spaces)
    rows = re.findall(rf"^\| `([\w.]+)` \|{numbers}$", card, re.MULTILINE)
    assert len(rows) >= 8
    assert rows == [(key, *(f"{space[key]:.3f}" for space in spaces)) for key, *_ in rows]

    comparison = leaves(json.loads((ROOT / "metrics/comparison.json").read_text()))
    gains = re.findall(r"^\| `([\w.]*gain)` \(.+\) \| (\S+) \| (\S+) to (\S+) \|$", card, re.MULTILINE)
    assert gains == [
        (key, *(f"{comparison[f'{key}.{part}']:+.3f}" for part in ("mean", "low", "high")))
        for key in ("id_obeyed.gain", "second_opinion.id_obeyed.gain", "gain", "second_opinion.gain")
    ]
    scale = [
        json.loads((ROOT / f"metrics/{name}.json").read_text())[key]
        for name, key in (("world", "id_floor"), ("world", "id_ceiling"), ("zoo", "id_score"))
    ]
    stranger, own, true = scale
    sentence = f"a stranger scores {stranger:.3f} by dlib, the person's own photos {own:.3f}, the true LoRA of eight"
    assert f"{sentence} photos {true:.3f}." in " ".join(card.split())
