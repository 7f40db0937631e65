"""The reference page of all settings, from their typed models: `python docs/generate_parameters.py` prints it."""

import re
from collections.abc import Iterator
from inspect import cleandoc

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_json

INTRODUCTION = """# Parameters

`params.yaml` overrides the defaults below. An unknown key, a wrong type or a value out of range is an error that names
the key. `dvc exp run -S vae.latent_dim=128` changes one setting for one run; `dvc repro --dry` lists the stages that
would run again. This page is generated from the typed settings in `w2wpp/run/params.py`.
"""
COLUMNS = "| key | type | default | range | meaning |\n|---|---|---|---|---|"
BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "multipleOf": "multiple of {}",
}


def page(model: type[BaseModel]) -> str:
    """The settings of a model as Markdown: a table of its own keys, and one for each section below it."""
    parts = [INTRODUCTION]
    for name, description, rows in sections(model):
        parts.append("\n".join([f"## {name}", "", *([description, ""] if description else []), COLUMNS, *rows, ""]))
    return "\n".join(parts)


def sections(
    model: type[BaseModel], path: tuple[str, ...] = (), description: str = ""
) -> Iterator[tuple[str, str, list[str]]]:
    """Heading, description and table rows of a model and, depth first, of the models that are its fields."""
    nested = {name: field for name, field in model.model_fields.items() if is_section(field)}
    schema = model.model_json_schema()
    rows = [
        row(".".join([*path, name]), field, schema["properties"][name], schema.get("$defs", {}))
        for name, field in model.model_fields.items()
        if name not in nested
    ]
    if rows:
        yield ".".join(path) or "General", description, rows
    for name, field in nested.items():
        about = field.description or cleandoc(field.annotation.__doc__ or "")
        yield from sections(field.annotation, (*path, name), about)


def is_section(field: FieldInfo) -> bool:
    """Whether a field is a model of further settings."""
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def row(key: str, field: FieldInfo, schema: dict, definitions: dict) -> str:
    """The table row of one setting."""
    default = "none" if field.is_required() else code(field.get_default(call_default_factory=True))
    kind, limits = types(schema, definitions), ranges(schema, definitions)
    return f"| `{key}` | {kind} | {default} | {limits} | {cell(field.description or '')} |"


def types(schema: dict, definitions: dict) -> str:
    """The type of a JSON schema, in words."""
    schema = resolved(schema, definitions)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(types(option, definitions) for option in schema["anyOf"]))
    kind = schema.get("type", "string" if choices(schema) else "any")
    if kind != "array":
        return kind
    items = schema.get("prefixItems") or [schema.get("items", {})]
    count = f"{len(items)} " if "prefixItems" in schema else ""
    return f"list of {count}{types(items[0], definitions)}s"


def ranges(schema: dict, definitions: dict) -> str:
    """The constraints of a JSON schema beyond the type: choices, bounds, lengths."""
    schema = resolved(schema, definitions)
    if "anyOf" in schema:
        limits = [ranges(option, definitions) for option in schema["anyOf"] if option.get("type") != "null"]
        return " or ".join(limits) if all(limits) else ""
    if choices(schema):
        return ", ".join(code(choice) for choice in choices(schema))
    if schema.get("type") == "array":
        items = schema.get("prefixItems") or [schema.get("items", {})]
        each = ranges(items[0], definitions)
        lengths = [
            f"at {word} {schema[key]}"
            for key, word in (("minItems", "least"), ("maxItems", "most"))
            if key in schema and "prefixItems" not in schema
        ]
        return ", ".join([*lengths, *([f"each {each}"] if each else [])])
    bounds = [text.format(f"{schema[key]:g}") for key, text in BOUNDS.items() if key in schema]
    return ", ".join([*bounds, *(["not empty"] if schema.get("minLength") else [])])


def resolved(schema: dict, definitions: dict) -> dict:
    """The schema that a reference points to."""
    return definitions[schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema


def choices(schema: dict) -> list:
    """The values that a schema enumerates."""
    return schema.get("enum", [schema["const"]] if "const" in schema else [])


def code(value: object) -> str:
    """A value in the notation of params.yaml."""
    text = value if isinstance(value, str) and value else to_json(value).decode()
    return cell(f"`{text}`")


def cell(text: str) -> str:
    """Text on one line, with escaped bars, and with escaped brackets outside of code."""
    shown = re.sub("`[^`]*`|<", lambda found: "&lt;" if found[0] == "<" else found[0], " ".join(text.split()))
    return shown.replace("|", "\\|")


if __name__ == "__main__":
    from w2wpp.run.params import Params

    print(page(Params))
