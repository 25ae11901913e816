"""What a step of processing works on: the uploaded file, its labels, and what the steps before left in the store."""

from datetime import datetime

import msgspec

from producer.documents import Chunk
from producer.files import DocumentFile

LABELS = ("title", "source_url", "business_tag", "domain", "language")


class UploadedFile(msgspec.Struct, frozen=True):
    """The staged file of an upload; see `DocumentFile`."""

    name: str  # its suffix says how the file is read
    extension: str
    content_type: str
    sha256: str
    size_bytes: int
    staged_key: str
    staged_at: datetime

    @classmethod
    def of(cls, name: str, file: DocumentFile) -> "UploadedFile":
        """`file` must be staged."""
        assert file.staged_key is not None
        assert file.staged_at is not None
        values = (file.extension, file.content_type, file.sha256, file.size_bytes, file.staged_key, file.staged_at)
        return cls(name, *values)

    def to_document_file(self) -> DocumentFile:
        return DocumentFile(
            self.extension,
            self.content_type,
            self.sha256,
            self.size_bytes,
            staged_key=self.staged_key,
            staged_at=self.staged_at,
        )


class TaskInput(msgspec.Struct, frozen=True, omit_defaults=True):
    """The column `input_json` of a task. Each step adds what it made; keys are those of the object store."""

    file: UploadedFile
    labels: dict[str, str]  # those that the upload gave
    strategy: str | None = None  # None: by the kind of text
    replaces: str | None = None  # SHA-256 of the file of a chunked document that the upload replaces
    is_new: bool = True  # the document had no chunks when the file was uploaded
    extracted_key: str = ""
    chunks_key: str = ""
    vectors_key: str = ""


class CutChunk(msgspec.Struct, frozen=True, array_like=True):
    """A chunk without its vector, between two steps; see `producer.Chunk`."""

    content: str
    vector_level: str
    modal_type: str
    parent: int | None
    associate_id: str | None
    start_char: int | None
    strategy: str | None

    @classmethod
    def of(cls, chunk: Chunk) -> "CutChunk":
        return cls(*(getattr(chunk, name) for name in cls.__struct_fields__))

    def to_chunk(self) -> Chunk:
        return Chunk(**msgspec.structs.asdict(self))


class Vectors(msgspec.Struct, frozen=True):
    """Vectors between two steps: `values` has float32 numbers, `dimension` for each of the chunks `positions`."""

    model: str
    positions: list[int]
    dimension: int
    values: bytes
    weights: list[dict[int, float]] | None = None  # sparse, one per position
