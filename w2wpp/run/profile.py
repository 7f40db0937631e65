"""Settings for another world: a profile's keys are written into params.yaml; everything else there stays.

python -m w2wpp.run.profile profiles/sd15.yaml [key=value ...]
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from w2wpp.files.errors import InputError
from w2wpp.files.folders import expanded
from w2wpp.files.storage import write_atomically
from w2wpp.files.tensor_files import printable
from w2wpp.run.params import RESTORE, check_params
from w2wpp.run.stage import run_stage
from w2wpp.run.yaml_files import changed_leaves, parse_mapping, parse_yaml, read_text, with_values

ANOTHER = "Give a profile such as profiles/sd15.yaml"


def apply_profile(profile: str | Path, params: str | Path = "params.yaml", settings: Sequence[str] = ()) -> None:
    """Write a profile's keys, then single settings, into params.yaml, whose comments stay.

    Args:
        profile: YAML with some of the sections and keys of params.yaml; lists are replaced as a whole.
        settings: "section.key=value", the value as YAML; they override the profile.

    Raises:
        InputError: a file cannot be read, a setting has another form, or the result is no valid params.yaml: a key is
            unknown, or a value has the wrong type or range. The error names which of params.yaml, the profile and the
            settings is wrong; params.yaml then does not change.
    """
    text = read_text(params, "Run from the repository's root")
    steps = [(str(params), parse_mapping(text, str(params), RESTORE))]
    changes = [(str(profile), parse_mapping(read_text(profile, ANOTHER), str(profile), ANOTHER))]
    for where, tree in [*changes, *map(_parse_setting, settings)]:
        try:
            steps.append((where, _merged(steps[-1][1], tree, where)))
        except InputError:
            _check(steps[:1])
            raise
    _check(steps)
    written = _written(text, steps[0][1], steps[-1][1])
    if written is None:
        _check(steps[:1])
        raise InputError(
            str(params), None, "its YAML has anchors or tags, so that single values cannot be replaced", RESTORE
        )
    write_atomically(Path(params), lambda path: path.write_bytes(written.encode()))


def _written(text: str, before: dict, after: dict) -> str | None:
    try:
        written = with_values(text, changed_leaves(before, after))
        return written if parse_yaml(written, "") == after else None
    except (LookupError, ValueError, InputError):
        return None


def _parse_setting(setting: str) -> tuple[str, dict]:
    key, equals, value = setting.partition("=")
    if not equals or not all(key.split(".")):
        raise InputError(f"setting {printable(setting)}", None, "no setting", "Write section.key=value")
    where = f"setting {printable(key)}"
    try:
        content = parse_yaml(value, where)
    except InputError as error:
        raise InputError(where, None, f"{value!r} is {error.reason}", "Quote it") from error
    first, *others = key.split(".")
    for part in reversed(others):
        content = {part: content}
    return where, {first: content}


def _merged(old: Mapping, tree: Mapping, where: str, within: str = "") -> dict:
    new = dict(old)
    for key, value in tree.items():
        if key in old and isinstance(old[key], Mapping) != isinstance(value, Mapping):
            raise InputError(
                where,
                f"{within}{key}",
                "a section of params.yaml and a value in its place, or the reverse",
                "Nest keys as params.yaml does",
            )
        nested = key in old and isinstance(value, Mapping)
        new[key] = _merged(old[key], value, where, f"{within}{key}.") if nested else value
    return new


def _check(steps: list[tuple[str, dict]]) -> None:
    """Refuse the last step's content; the error names the first step with the same fault."""
    faults = [_fault(where, content) for where, content in steps]
    if faults[-1]:
        raise next(each for each in faults if each and (each.key, each.reason) == (faults[-1].key, faults[-1].reason))


def _fault(where: str, content: dict) -> InputError | None:
    try:
        check_params(content, where, "Change it there")
    except InputError as error:
        return error
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=expanded, help="YAML with some of the keys of params.yaml")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="single settings, such as collect.path=loras")
    parser.add_argument("--params", type=expanded, default=Path("params.yaml"), help="settings to write into")
    args = parser.parse_intermixed_args()
    apply_profile(args.profile, args.params, args.settings)


if __name__ == "__main__":
    run_stage(main)
