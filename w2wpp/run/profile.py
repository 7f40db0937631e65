"""Settings for another world: what a profile says is written into params.yaml, and everything else there stays.

    python -m w2wpp.run.profile profiles/sd15.yaml [key=value ...]
"""

import argparse
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

from w2wpp.files.errors import InputError
from w2wpp.files.storage import write_atomically
from w2wpp.run.params import check_params
from w2wpp.run.stage import run_stage


class _Representer(RoundTripRepresenter):
    """As params.yaml is written: null in so many letters."""


_Representer.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null"))


def apply_profile(profile: str | Path, params: str | Path = "params.yaml", settings: Sequence[str] = ()) -> None:
    """Write a profile's keys, then single settings, into params.yaml, whose comments stay.

    Args:
        profile: YAML with some of the sections and keys of params.yaml; lists are replaced as a whole.
        settings: "section.key=value", the value as YAML; they go before the profile.

    Raises:
        InputError: a file cannot be read or a setting has no such form, or the result is no valid params.yaml: a key
            is unknown, or a value is of the wrong type or out of range. params.yaml then stays as it was.
    """
    yaml = YAML()
    yaml.Representer, yaml.width, yaml.preserve_quotes = _Representer, 10_000, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    content = _read(yaml, params)
    _merge(content, _read(yaml, profile), str(profile))
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(str(profile), setting, "no setting", "Write section.key=value")
        try:
            tree = yaml.load(value)
        except YAMLError as error:
            raise InputError(str(profile), key, f"{value!r} is not valid YAML", "Quote it") from error
        for part in reversed(key.split(".")):
            tree = {part: tree}
        _merge(content, tree, str(profile))
    text = io.StringIO()
    yaml.dump(content, text)
    check_params(text.getvalue(), str(profile))
    write_atomically(Path(params), lambda path: path.write_text(text.getvalue()))


def _read(yaml: YAML, path: str | Path) -> dict:
    try:
        content = yaml.load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise InputError(str(path), None, f"not readable YAML ({' '.join(str(error).split())})",
                         "Give a profile such as profiles/sd15.yaml") from error
    if not isinstance(content, dict):
        raise InputError(str(path), None, "not a mapping of sections", "Give a profile such as profiles/sd15.yaml")
    return content


def _merge(into: dict, tree: Mapping, where: str, within: str = "") -> None:
    for key, value in tree.items():
        if isinstance(into.get(key), dict) != isinstance(value, dict) and key in into:
            raise InputError(where, f"{within}{key}", "a section of params.yaml and a value in its place, or the "
                             "reverse", "Nest keys as params.yaml does")
        if isinstance(value, dict) and key in into:
            _merge(into[key], value, where, f"{within}{key}.")
        else:
            into[key] = value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=Path, help="YAML with some of the keys of params.yaml")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="single settings, such as collect.path=loras")
    parser.add_argument("--params", default="params.yaml", help="settings to write into")
    args = parser.parse_intermixed_args()
    apply_profile(args.profile, args.params, args.settings)


if __name__ == "__main__":
    run_stage(main)
