"""Only values are replaced, in YAML of any style."""

import io
import re
from copy import deepcopy

from dvc.utils.serialize import dumps_yaml
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from w2wpp.run.yaml_files import changed_leaves, parse_yaml, with_values

WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=200) | st.sampled_from(
    [
        "",
        "null",
        "~",
        "~/loras",
        "a: b",
        "a, b",
        "# no",
        " lead",
        "two\nlines\n",
        "$$",
        "[]",
        "1e-3",
        "on",
        "é 😀 שלום",
        "word " * 40,
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS
VALUES = SCALARS | st.lists(SCALARS, max_size=4)
INNER = st.dictionaries(st.sampled_from("ijk"), VALUES, min_size=1)
TREES = st.dictionaries(
    st.sampled_from("abcd"), st.dictionaries(st.sampled_from("efgh"), VALUES | INNER, min_size=1), min_size=1
)
REMARK = "  # it stays: [], {x"


def in_flow(tree: dict) -> str:
    file = io.StringIO()
    YAML(typ="safe").dump(tree, file)
    return file.getvalue()


def remarked(text: str) -> str:
    """With a comment at the end of every line with a key, except inside a longer text."""
    lines, content = text.split("\n"), YAML(typ="safe", pure=True).load(text)
    for number, line in enumerate(lines):
        lines[number] += REMARK if re.match(" *[a-k]:", line) else ""
        try:
            same = YAML(typ="safe", pure=True).load("\n".join(lines)) == content
        except YAMLError:
            same = False
        lines[number] = lines[number] if same else line
    return "\n".join(lines)


@given(TREES, st.randoms(use_true_random=False), st.lists(VALUES, min_size=40, max_size=40), st.booleans())
def test_only_the_named_values_change(tree, chance, values, blocks):
    text = remarked(dumps_yaml(tree) if blocks else in_flow(tree))  # blocks: as DVC writes
    assert parse_yaml(text, "") == tree
    expected = deepcopy(tree)
    for section in expected.values():
        for key, old in section.items():
            if isinstance(old, dict):
                old[chance.choice("ijk")] = values.pop()
            elif chance.random() < 0.5:
                section[key] = values.pop()
        section["new"] = {"value": values.pop()}
    expected["further"] = {"section": {"value": values.pop()}}
    changed = with_values(text, changed_leaves(tree, expected))
    assert YAML(typ="safe", pure=True).load(changed) == expected
    if blocks:  # in flow, a comment may stand within a list that is replaced
        assert changed.count(REMARK.strip()) == text.count(REMARK.strip())
