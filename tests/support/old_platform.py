"""A platform with another layout, as `docs/adopt.md` describes it: tables, a Milvus collection and files.

It shares no code with what reads it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pymilvus import DataType, MilvusClient
from sqlalchemy import Engine, text

from tests.support.servers import ROOT

DOCUMENTS = 300
COLLECTION = "kb_vectors"
BROKEN = {  # id → a part of the reason
    17: "chunks[1].vector: no vector in Milvus with the id '1701'",
    42: "title must be at most 512 characters",
    90: "file: 'missing/90.txt' is missing",
    120: "chunks must be 1 to 100000 chunks, there are 0",
}
LARGE_FILE = bytes(range(256)) * 1_000  # is staged
_TABLES = (
    "CREATE TABLE kb_file (id INTEGER PRIMARY KEY, name VARCHAR(1000), kind VARCHAR(20), department VARCHAR(50),"
    " pages INTEGER, object_key VARCHAR(100))",
    "CREATE TABLE kb_piece (piece INTEGER PRIMARY KEY, file_id INTEGER, seq INTEGER, body TEXT, vec_id BIGINT,"
    " start_at INTEGER, state VARCHAR(10))",
    "CREATE INDEX of_file ON kb_piece (file_id, seq)",
)


@dataclass(frozen=True)
class OldChunk:
    vec_id: int
    content: str
    vector: npt.NDArray[np.float32]


def chunks_of(number: int, dimension: int) -> list[OldChunk]:
    if number == 120:
        return []
    made = []
    for place in range(2 + number % 4):
        vec_id = 100 * number + place
        random = np.random.default_rng(vec_id)
        made.append(
            OldChunk(vec_id, f"Piece {place} of file {number}.", random.standard_normal(dimension, dtype=np.float32))
        )
    return made


def file_of(number: int) -> tuple[str, bytes] | None:
    """Key and content of a document's file."""
    if number % 30:
        return None
    return f"{number % 7}/{number}.txt", LARGE_FILE if number == 150 else f"File {number}.".encode()


def create(
    engine: Engine, milvus: MilvusClient, put: Callable[[str, bytes], None], dimension: int, documents: int = DOCUMENTS
) -> None:
    """Fill the old stores; the documents in BROKEN cannot be adopted."""
    files, pieces = [], []
    for number in range(1, documents + 1):
        file = file_of(number)
        key = "missing/90.txt" if number == 90 else file and file[0]
        if file and number != 90:
            put(*file)
        files.append(
            {
                "id": number,
                "name": "x" * 600 if number == 42 else f"File {number}",
                "kind": ("PDF", "docx", "text", "something")[number % 4],
                "department": "hr" if number % 2 else None,
                "pages": number,
                "object_key": key,
            }
        )
        pieces += [
            {
                "piece": chunk.vec_id,
                "file_id": number,
                "seq": place,
                "body": chunk.content,
                "vec_id": chunk.vec_id,
                "start_at": 10 * place,
                "state": "live",
            }
            for place, chunk in enumerate(chunks_of(number, dimension))
        ]
    pieces.append(pieces[0] | {"piece": -1, "body": "An old piece.", "state": "old"})
    with engine.begin() as connection:
        for statement in _TABLES:
            connection.execute(text(statement))
        for table, rows in (("kb_file", files), ("kb_piece", pieces[::-1])):
            names = rows[0].keys()
            values = ", ".join(f":{name}" for name in names)
            connection.execute(text(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({values})"), rows)
    vectors = [chunk for number in range(1, documents + 1) for chunk in chunks_of(number, dimension)]
    fill(milvus, COLLECTION, dimension, [one for one in vectors if one.vec_id != 1701])


def fill(milvus: MilvusClient, collection: str, dimension: int, chunks: Sequence[OldChunk]) -> None:
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("key", DataType.INT64, is_primary=True)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=dimension)
    schema.add_field("note", DataType.VARCHAR, max_length=100)
    indexes = milvus.prepare_index_params()
    indexes.add_index("embedding", index_type="FLAT", metric_type="COSINE")
    milvus.create_collection(collection, schema=schema, index_params=indexes)
    rows = [{"key": one.vec_id, "embedding": one.vector, "note": one.content} for one in chunks]
    for start in range(0, len(rows), 1_000):
        milvus.insert(collection, rows[start : start + 1_000])


def documented_mapping(**values: str | None) -> str:
    """The mapping file in docs/adopt.md with other values; a key whose value is None is left out."""
    [mapping] = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "adopt.md").read_text(), re.DOTALL)
    for key, value in values.items():
        line = "" if value is None else f'{key} = "{value}"\n'
        mapping, found = re.subn(rf"^{key} = .*\n", line.replace("\\", r"\\"), mapping, flags=re.MULTILINE)
        assert found == 1, key
    return str(mapping)


def write_mapping(path: Path, mapping: str, changes: Mapping[str, str] | None = None) -> Path:
    for old, new in (changes or {}).items():
        assert old in mapping
        mapping = mapping.replace(old, new)
    path.write_text(mapping)
    return path
