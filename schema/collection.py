"""The Milvus collection as data: alias, fields, indexes. The sink asks the server which of them it supports."""

from dataclasses import dataclass
from typing import Literal

from schema import limits

SYSTEM_ID_PROPERTY = "rag_outbox.system_id"  # a property: Milvus Lite keeps no description of a collection
METRIC = "COSINE"
HNSW = {"M": 16, "efConstruction": 200}
_PROBED_CLUSTERS = 64  # of an IVF index; with the default of 8 it finds too few
_EXPLORED_NODES = 256  # of an HNSW index; its default is too few among many similar rows of a table
SPARSE_METRIC = "IP"
NOT_LOADED_CODES = {101, 201}  # errors of Milvus: a collection, a partition

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t"})


@dataclass(frozen=True)
class Field:
    name: str
    kind: Literal["varchar", "int64", "vector", "sparse"]
    max_length: int = 0  # bytes, of a varchar
    index: tuple[str, ...] = ()  # types of scalar index, the preferred type first


FIELDS = (
    Field("chunk_id", "varchar", limits.CHUNK_ID_BYTES),  # the primary key
    Field("doc_id", "varchar", limits.DOC_ID_BYTES, index=("INVERTED", "Trie")),  # reconcile queries by document
    Field("doc_version", "int64"),
    Field("content_hash", "varchar", 64),
    Field("vector", "vector"),
    Field("sparse", "sparse"),  # Milvus 2.4 and later: token ids with weights
    Field("modal_type", "varchar", limits.MODAL_TYPE_BYTES, index=("Trie", "INVERTED")),
    Field("business_tag", "varchar", limits.BUSINESS_TAG_BYTES, index=("Trie", "INVERTED")),
    Field("vector_level", "varchar", limits.VECTOR_LEVEL_BYTES),
    Field("associate_id", "varchar", limits.ASSOCIATE_ID_BYTES),
    Field("oss_id", "varchar", limits.OBJECT_KEY_BYTES),
    Field("content", "varchar", limits.CONTENT_BYTES),
)


def search_params(limit: int) -> dict[str, dict[str, int]]:
    """Of a search for the `limit` nearest rows; an index ignores what belongs to another kind."""
    return {"params": {"nprobe": _PROBED_CLUSTERS, "ef": max(limit, _EXPLORED_NODES)}}


def alias_of(namespace: str) -> str:
    """The alias of a namespace's collection: `rag_vectors` for `rag`. Milvus takes no `-`, and no digit first."""
    name = f"{namespace.replace('-', '_')}_vectors"
    return f"_{name}" if name[0].isdigit() else name


def name_of(alias: str, instance: int) -> str:
    """The collection of the instance with this number, for ever. Only searches use the alias."""
    return f"{alias}_{instance}"


ALIAS = alias_of("rag")  # of the default namespace


def literal(text: str) -> str:
    """`text` as an escaped string literal of Milvus' filter expressions: pymilvus does not escape."""
    return f'"{text.translate(_ESCAPES)}"'
