"""Documents around a failover: those that the replica has, what it lost of them, and what is written afterwards."""

from collections.abc import Callable

from sqlalchemy import Connection, Engine

from producer import Document, DocumentFile, Writer
from tests.support.pipeline import MODEL, document

LOST = "lost"  # in every text, file and label of a lost version


def _state(doc_id: str, state: str) -> Document:
    contents = f"{doc_id}, in every version", f"{doc_id}, {state} one", f"{doc_id}, {state} two"
    file = None if doc_id.startswith("filed") else f"{doc_id}, {state}".encode()
    return document(doc_id, *contents, file=file, business_tag=state)


def _edit(connection: Connection, doc_id: str) -> None:
    """Other chunks, and a file with another key."""
    file = DocumentFile.from_bytes(f"{doc_id}, {LOST}".encode(), "original.txt")
    contents = f"{doc_id}, in every version", f"{doc_id}, {LOST} one"
    writer, given = Writer(MODEL), document(doc_id, *contents, file=file, business_tag=LOST, source_type="pdf")
    writer.upsert(connection, given)


def _delete(connection: Connection, doc_id: str) -> None:
    Writer(MODEL).delete(connection, doc_id)


def _relabel(connection: Connection, doc_id: str) -> None:
    Writer(MODEL).relabel(connection, doc_id, business_tag=LOST)


_LOSSES: dict[str, Callable[[Connection, str], None]] = {
    "edited": _edit,
    "filed": _edit,  # its first file
    "created": _edit,
    "deleted": _delete,
    "relabelled": _relabel,
}
ALONE = [f"{loss}-alone" for loss in _LOSSES]  # not written after the failover
AGAIN = [f"{loss}-again" for loss in _LOSSES]  # written after the failover, with the version that was lost
UNDONE = ["deleted-again", "deleted-alone", "edited-alone"]  # the object store lost what they need, if it was applied


def write_kept(engine: Engine) -> None:
    """Write what the replica gets."""
    _upsert(engine, "kept", [one for one in (*ALONE, *AGAIN) if not one.startswith("created")])


def write_lost(engine: Engine) -> None:
    with engine.begin() as connection:
        for doc_id in (*ALONE, *AGAIN):
            _LOSSES[doc_id.partition("-")[0]](connection, doc_id)


def write_new(engine: Engine) -> None:
    """Write on the new primary, with versions and outbox ids that were lost."""
    _upsert(engine, "new", AGAIN)


def write_undone(engine: Engine) -> None:
    """Write once more what only the object store had."""
    for state, doc_ids in (("kept", ALONE), ("new", AGAIN)):
        _upsert(engine, state, [doc_id for doc_id in doc_ids if doc_id in UNDONE])


def lost_texts() -> list[str]:
    """What a search must not find after the failover."""
    edited = [one for one in (*ALONE, *AGAIN) if _LOSSES[one.partition("-")[0]] is _edit]
    return [f"{doc_id}, {LOST} one" for doc_id in edited] + ["created-alone, in every version"]


def _upsert(engine: Engine, state: str, doc_ids: list[str]) -> None:
    with engine.begin() as connection:
        Writer(MODEL).upsert_many(connection, [_state(doc_id, state) for doc_id in doc_ids])
