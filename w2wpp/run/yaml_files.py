"""YAML of people, editors and DVC: read with errors that name file and line, changed without losing comments."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, SequenceNode

from w2wpp.files.errors import InputError

_PLAIN = re.compile(r"[A-Za-z~/][\w./~:-]*( [\w./~:-]+)*")
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def read_text(path: str | Path, remedy: str) -> str:
    """A file's text with its line ends.

    Raises:
        InputError: the file is missing (then with `remedy`), cannot be read, or is not UTF-8.
    """
    try:
        return Path(path).read_bytes().decode()
    except FileNotFoundError as error:
        raise InputError(str(path), None, "no such file", remedy) from error
    except OSError as error:
        raise InputError(str(path), None, f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(
            str(path), None, f"not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x})", "Save it as UTF-8"
        ) from error


def parse_yaml(text: str, where: str) -> object:
    """The content of YAML 1.2, in which, as for DVC, 1e-3 is a number; duplicate keys are an error.

    Raises:
        InputError: the text is no valid YAML; the message has the line.
    """
    try:
        return YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        reason = " ".join(str(error.problem or error.context).split())
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        remedy = "Indent with spaces instead of tabs" if r"'\t'" in reason else None
        raise InputError(where, None, f"not valid YAML{line}: {reason}", remedy) from error
    # Invalid dates and the like; endless nesting.
    except (YAMLError, ValueError, RecursionError) as error:
        raise InputError(where, None, f"not valid YAML: {' '.join(str(error).split())}") from error


def parse_mapping(text: str, where: str, remedy: str) -> dict:
    """A YAML mapping; anything else raises an InputError with this remedy."""
    content = parse_yaml(text, where)
    if not isinstance(content, dict):
        raise InputError(where, None, "empty" if content is None else "not a mapping of sections", remedy)
    return content


def changed_leaves(old: Mapping, new: Mapping, within: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    """The values in which `new` differs from `old`, by path of keys; `new` has all keys of `old`."""
    leaves: dict[tuple[str, ...], object] = {}
    for key, value in new.items():
        if isinstance(value, Mapping) and old.get(key):
            leaves |= changed_leaves(old[key], value, (*within, key))
        elif key not in old or old[key] != value:
            leaves[*within, key] = value
    return leaves


def with_values(text: str, values: Mapping[tuple[str, ...], object]) -> str:
    """YAML with changed or added values; everything else, comments included, stays.

    The text itself is edited, because a parser that writes YAML again misplaces comments that DVC has moved.

    Args:
        text: a mapping of mappings, none of them empty unless its whole value is given.
        values: by path of keys; the parent of an added value must exist.

    Raises:
        LookupError: the parent of an added value is missing.
    """
    root = YAML(typ="safe", pure=True).compose(text)
    edits = [_edit(text, _find(root, keys[:-1]), keys[-1], value) for keys, value in values.items()]
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _find(node: MappingNode, keys: tuple[str, ...]) -> MappingNode:
    return _find({key.value: value for key, value in node.value}[keys[0]], keys[1:]) if keys else node


def _edit(text: str, section: MappingNode, name: str, value: object) -> tuple[int, int, str]:
    """A replacement in the text: start, end, new text."""
    new, places = _written(value), {key.value: (key, old) for key, old in section.value}
    if name not in places:
        first = section.value[0][0].start_mark
        return first.index, first.index, f"{name}: {new}" + (", " if section.flow_style else "\n" + " " * first.column)
    key, old = places[name]
    colon, start = text.index(":", key.end_mark.index) + 1, old.start_mark.index
    end = start + len(text[start : old.end_mark.index].rstrip(" \r\n"))  # a list ends where the next key begins
    listed = isinstance(old, SequenceNode) and not old.flow_style  # a value on its own lines
    if start < end and not listed:
        blanks, kept = _room(text[end:], len(new) - (end - start))
        return start, end + blanks, new + kept
    blanks, kept = _room(text[colon:], len(new) + 1)
    if not listed:
        return colon, colon + blanks, f" {new}{kept}"
    first, last = text.rindex("\n", 0, start) + 1, text.find("\n", end) + 1 or len(text)
    return colon, last, f" {new}{kept}{text[colon + blanks : first]}"


def _room(rest: str, shift: int) -> tuple[int, str]:
    """The number of blanks after a value, and the blanks after a changed one that keep a comment's column."""
    blanks = len(rest) - len(rest.lstrip(" "))
    return (blanks, " " * max(1, blanks - shift)) if rest[blanks:].startswith("#") else (0, "")


def _written(value: object) -> str:
    """A value on one line: as JSON, which is YAML, except words that need no quotes."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_written(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_written, value)) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and parse_yaml(f"[{value}]", "") == [value]:
        return value
    return _UNPRINTABLE.sub(lambda letter: f"\\u{ord(letter[0]):04x}", json.dumps(value, ensure_ascii=False))
