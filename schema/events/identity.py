"""Identities that a service in any language can compute: the same text in the same document keeps its chunk id."""

import hashlib
from collections import Counter
from collections.abc import Iterable

from uuid6 import uuid7

from schema.limits import DOC_ID_BYTES


def content_hash(content: str) -> str:
    """SHA-256 of the UTF-8 content, 64 hex digits."""
    return hashlib.sha256(content.encode()).hexdigest()


def chunk_id(doc_id: str, content_hash: str, occurrence: int) -> str:
    """The first 32 hex digits of SHA-256 over doc_id, content hash and occurrence (0, 1, …), a NUL between them."""
    return hashlib.sha256(f"{doc_id}\0{content_hash}\0{occurrence}".encode()).hexdigest()[:32]


def chunk_ids(doc_id: str, content_hashes: Iterable[str]) -> list[str]:
    """One id per chunk, in order; equal contents differ by their occurrence number."""
    seen: Counter[str] = Counter()
    ids = []
    for digest in content_hashes:
        ids.append(chunk_id(doc_id, digest, seen[digest]))
        seen[digest] += 1
    return ids


def vector_digest(vector: bytes, sparse: bytes = b"") -> int:
    """The first 8 bytes of SHA-256 over both, as a signed big-endian number: the same bytes are the same vector."""
    return int.from_bytes(hashlib.sha256(vector + sparse).digest()[:8], "big", signed=True)


def event_id() -> str:
    """A new UUIDv7, 36 characters."""
    return str(uuid7())


def doc_id_error(doc_id: object) -> str | None:
    """Why a document id is invalid, or None. It becomes part of object keys, so it must be safe as a file name."""
    if not isinstance(doc_id, str):
        return "must be a string"
    if not doc_id:
        return "must not be empty"
    try:
        length = len(doc_id.encode())
    except UnicodeEncodeError:
        return "must be valid Unicode (it has a lone surrogate)"
    if length > DOC_ID_BYTES:
        return f"must be at most {DOC_ID_BYTES} bytes of UTF-8, has {length}"
    if any(not character.isprintable() for character in doc_id) or doc_id != doc_id.strip():
        return "must not contain control characters, nor start or end with a space"
    if "/" in doc_id or "\\" in doc_id or doc_id.startswith("."):
        return "must not contain / or \\, nor start with a dot: it names files in the object store"
    return None
