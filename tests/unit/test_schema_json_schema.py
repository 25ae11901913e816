"""The JSON Schemas in the repository match the structs."""

import json
from pathlib import Path

import pytest

from schema.events import json_schema

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).parents[2] / "schema" / "events" / "json_schemas"


def test_schema_files_match_the_structs() -> None:
    files = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
    assert files == json_schema.generate(), "run: python -m schema.events.json_schema"


def test_generator_writes_the_schema_files(tmp_path: Path) -> None:
    json_schema.write(tmp_path)
    names = {"rag.document.upserted.v1.json", "rag.document.deleted.v1.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    for name in names:
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()


def test_schema_names_required_fields_and_byte_encoding() -> None:
    upserted = json.loads((FOLDER / "rag.document.upserted.v1.json").read_text(encoding="utf-8"))
    assert upserted["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert upserted["$ref"] == "#/$defs/DocumentUpserted"
    required = [
        "doc_id",
        "version",
        "history_id",
        "embedding_model",
        "dimension",
        "title",
        "source_type",
        "chunk_count",
    ]
    assert upserted["$defs"]["DocumentUpserted"]["required"] == required
    assert upserted["$defs"]["ChunkRow"]["properties"]["vector"] == {"type": "string", "contentEncoding": "base64"}

    deleted = json.loads((FOLDER / "rag.document.deleted.v1.json").read_text(encoding="utf-8"))
    assert deleted["$defs"]["DocumentDeleted"]["required"] == ["doc_id", "version", "history_id"]
