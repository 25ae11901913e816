"""JSON Schemas of the events, for services in other languages: generated from the structs, never edited by hand.

`python -m schema.events.json_schema` writes them; a test compares them with `schema.events.events`.
"""

import inspect
import json
from importlib.resources import files
from pathlib import Path

import msgspec

from schema.events.events import EVENT_TYPES

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def generate() -> dict[str, str]:
    """File name → content, one file per event type."""
    return {f"{name}.json": _schema(struct) for name, struct in EVENT_TYPES.items()}


def write(folder: Path) -> None:
    for name, content in generate().items():
        (folder / name).write_text(content, encoding="utf-8")


def _schema(struct: type[msgspec.Struct]) -> str:
    schema = {"$schema": DIALECT, **msgspec.json.schema(struct)}
    for definition in schema["$defs"].values():  # Python 3.13 strips a docstring's indentation, 3.11 keeps it
        definition["description"] = inspect.cleandoc(definition["description"])
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    write(Path(str(files("schema.events"))) / "json_schemas")
