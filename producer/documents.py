"""A document and its chunks, as an upstream service gives them to the writer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from producer.files import DocumentFile

Vector = Sequence[float] | npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """A piece of a document's text with its vector.

    `vector` has the system's dimension; it may be None once every sink holds the chunk (see VectorRequired). `sparse`
    (token id → weight, for instance the lexical weights of BGE-M3) needs a vector, and a Milvus that takes it. The same
    content with other vector bytes (late chunking, a title in front of the text) is a change; rounding noise is one,
    too. `parent` is the position of the parent chunk in the document's list, `start_char` the offset in the extracted
    text.
    """

    content: str
    vector: Vector | None = None
    sparse: Mapping[int, float] | None = None
    vector_level: str = "text"
    modal_type: str = "text"
    parent: int | None = None
    associate_id: str | None = None
    start_char: int | None = None
    strategy: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Document:
    """The whole state of a document; writing it replaces the stored state.

    `file` (the original), `text`, `tables` and `images` (extracted from it; JSON and PNG files) and `chunks` may be
    None: then the stored ones stay. A new
    document whose chunks are None is `processing`: its file goes to the object store, and it is not completed before a
    later write brings its chunks (`[]` if there are none). Give a file of at most 64 KiB to that write, too: MySQL does
    not keep its bytes, so FileRequired may be raised without it until the object store has it. `embedding_model` may
    name the model of the vectors; the writer refuses every model but the system's.
    """

    doc_id: str
    title: str
    source_type: str
    chunks: Sequence[Chunk] | None
    source_url: str | None = None
    business_tag: str | None = None
    domain: str | None = None
    language: str | None = None
    page_count: int | None = None
    file: DocumentFile | None = field(default=None, repr=False)
    text: DocumentFile | None = field(default=None, repr=False)
    tables: Sequence[DocumentFile] | None = field(default=None, repr=False)
    images: Sequence[DocumentFile] | None = field(default=None, repr=False)
    embedding_model: str | None = None
