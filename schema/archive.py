"""The archive: the vectors and whole contents of every event, in the object store, by document, version and part.

The object-store sink writes it; refill reads it. An object holds the `ChunkRow`s of one part of an event, as
MessagePack. The labels in it are those of that event; the newest ones are in the metadata database.
"""

import hashlib
import io
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from schema.events.events import ChunkRow
from schema.events.identity import vector_digest
from schema.object_store import layout
from schema.object_store.port import ObjectMissing, ObjectStore

CONTENT_TYPE = "application/msgpack"
_DECODER = msgspec.msgpack.Decoder(list[ChunkRow])
_log = logging.getLogger(__name__)


def encode(rows: Sequence[ChunkRow]) -> bytes:
    return msgspec.msgpack.encode(rows)


def decode(content: bytes) -> list[ChunkRow]:
    """Raises msgspec.MsgspecError for an object that is no archive."""
    return _DECODER.decode(content)


def write(store: ObjectStore, doc_id: str, version: int, part: int, rows: Sequence[ChunkRow]) -> str:
    """Write the rows of one part of an event. Returns the key of the object."""
    key = layout.embeddings_key(doc_id, version, part)
    put(store, key, rows)
    return key


def put(store: ObjectStore, key: str, rows: Sequence[ChunkRow]) -> None:
    """Write rows to an object of an archive."""
    content = encode(rows)
    digest = hashlib.sha256(content).hexdigest()  # a backup copies only what its copy has with another digest
    store.put(key, io.BytesIO(content), size_bytes=len(content), content_type=CONTENT_TYPE, sha256=digest)


def keys(store: ObjectStore, doc_id: str) -> list[str]:
    """The keys of a document's archive, in the order of versions and parts."""
    return list(store.keys(layout.embeddings_prefix(doc_id)))


def last_part(found: Sequence[str], version: int) -> int:
    """The highest part of a version among keys of one document; 0 if there is none."""
    parts = [layout.embeddings_part(key) for key in found if layout.embeddings_version(key) == version]
    return max(parts, default=0)


def remove(store: ObjectStore, doc_id: str, *, keep: Collection[str] = ()) -> None:
    """Remove a document's archive, except the objects `keep`."""
    store.remove([key for key in keys(store, doc_id) if key not in keep])


class Wanted(NamedTuple):
    """What the archived row of a chunk must have; any vector will do if its digest is None."""

    content_hash: str
    version: int  # of the last event with this vector
    vector_digest: int | None = None

    def is_met_by(self, row: ChunkRow) -> bool:
        return row.content_hash == self.content_hash and (
            self.vector_digest is None or self.vector_digest == vector_digest(row.vector, row.sparse)
        )


def read_vectors(store: ObjectStore, doc_id: str, chunks: Mapping[str, Wanted]) -> Iterator[ChunkRow]:
    """The archived rows of chunks by chunk id, each once, in no particular order; what the archive lacks is left out.

    Reads one object at a time: those of the wanted versions first, then the others, the newest first, and superseded
    ones last. If retention rewrites the archive at the same time, reads the new objects, too.
    """
    missing = dict(chunks)
    seen: set[str] = set()
    versions = {wanted.version for wanted in chunks.values()}
    while missing:
        newest_first = sorted(keys(store, doc_id), key=layout.embeddings_order, reverse=True)
        unread = [key for key in newest_first if key not in seen]
        is_changed = False
        for key in sorted(unread, key=lambda key: _reading_order(key, versions)):
            rows = read_rows(store, key)
            is_changed |= rows is None  # rewritten since it was listed: another object has its rows
            seen.add(key)
            for row in rows or ():
                if row.chunk_id in missing and missing[row.chunk_id].is_met_by(row):
                    del missing[row.chunk_id]
                    yield row
            if not missing:
                return
        if not is_changed:
            return


def _reading_order(key: str, versions: Collection[int]) -> tuple[bool, bool]:
    return layout.is_superseded_key(key), layout.embeddings_version(key) not in versions


def read_rows(store: ObjectStore, key: str) -> list[ChunkRow] | None:
    """The rows of an object; none if it is damaged, and None if it is gone."""
    try:
        return decode(store.read(key))
    except ObjectMissing:
        return None
    except msgspec.MsgspecError as error:
        _log.warning("archive_object_damaged key=%s reason=%s", key, error)
        return []
