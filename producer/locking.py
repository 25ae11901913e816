"""The first step of every write: the identity and the documents, locked, and refused if the operation cannot be."""

from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from producer.backpressure import OutboxLimit
from producer.errors import UnknownDocument, WrongModel, WrongRelease
from producer.stored import LockedDocuments, lock_documents
from schema.database import revision
from schema.database.history import Identity, NotInitialised, read_identity
from schema.events.identity import doc_id_error

_checked: WeakSet[Engine] = WeakSet()  # whose tables this release works with


def lock(connection: Connection, model: str, doc_ids: Sequence[Any], outbox_limit: OutboxLimit) -> LockedDocuments:
    """Lock the identity and these documents, without invalid ids, after a look at the outbox.

    Raises WrongModel; WrongRelease at the first write through an engine, or if there are no tables.
    """
    _require_revision_once(connection)
    try:
        outbox_limit.look(connection)
        locked = lock_documents(connection, (doc_id for doc_id in doc_ids if doc_id_error(doc_id) is None))
    except NotInitialised as error:
        raise WrongModel(str(error)) from error
    except DBAPIError as error:
        raise _without_tables(error) from error
    require_model(locked.identity, model)
    return locked


def lock_existing(
    connection: Connection, model: str, doc_ids: Sequence[str], outbox_limit: OutboxLimit
) -> LockedDocuments:
    """As `lock`; raises UnknownDocument for a document that is not stored."""
    locked = lock(connection, model, doc_ids, outbox_limit)
    if unknown := [doc_id for doc_id in doc_ids if doc_id_error(doc_id) is not None or doc_id not in locked.stored]:
        raise UnknownDocument(unknown)
    return locked


def lock_living(connection: Connection, model: str, doc_id: str, outbox_limit: OutboxLimit) -> LockedDocuments:
    """As `lock_existing`; raises UnknownDocument for a deleted document, too."""
    locked = lock_existing(connection, model, [doc_id], outbox_limit)
    if locked.stored[doc_id].row.deleted_at is not None:
        raise UnknownDocument([doc_id], is_deleted=True)
    return locked


def _require_revision_once(connection: Connection) -> None:
    if connection.engine in _checked:
        return
    found = revision.of(connection)
    if found is not None:  # without tables, the identity is not found, which is reported
        try:
            revision.require_usable(found)
        except revision.WrongRevision as error:
            raise WrongRelease(str(error)) from error
    _checked.add(connection.engine)


def find_identity(connection: Connection, model: str) -> Identity:
    """The identity, without a lock. Raises WrongModel, and WrongRelease if there are no tables."""
    try:
        return require_model(read_identity(connection), model)
    except NotInitialised as error:
        raise WrongModel(str(error)) from error
    except DBAPIError as error:
        raise _without_tables(error) from error


def _without_tables(error: DBAPIError) -> Exception:
    return WrongRelease(revision.NO_TABLES) if revision.is_missing_table(error) else error


def require_model(identity: Identity, model: str) -> Identity:
    """The identity; raises WrongModel unless the system's model is `model`."""
    if identity.embedding_model != model:
        raise WrongModel(f"the system's embedding model is {identity.embedding_model!r}, this writer's is {model!r}")
    return identity
