"""Run a unit of work in its own transaction, again where that can help, with the vectors that it asks for."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, overload

from sqlalchemy import Connection, Engine, select

from producer.connections import connection_of, require_engine
from producer.errors import NeededVector, VectorRequired, WriteConflict
from producer.supply import OPTION, KnownVector, StoredVector, Supply
from schema import archive
from schema.database.statements import select_for_ids
from schema.database.tables import chunks
from schema.object_store.port import ObjectStore
from schema.retry import Backoff, call_with_retry, is_transient

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, sessionmaker

T = TypeVar("T")
_ATTEMPTS = 6
_SECONDS = 60.0  # SQLite waits up to 30 seconds for a lock in each attempt
_BACKOFF = Backoff(0.05, 2.0)


@overload
def run(
    engine: Engine,
    work: Callable[[Connection], T],
    *,
    store: ObjectStore | None = None,
    attempts: int = _ATTEMPTS,
    seconds: float = _SECONDS,
    backoff: Backoff = _BACKOFF,
) -> T: ...


@overload
def run(
    engine: "sessionmaker[Session]",
    work: "Callable[[Session], T]",
    *,
    store: ObjectStore | None = None,
    attempts: int = _ATTEMPTS,
    seconds: float = _SECONDS,
    backoff: Backoff = _BACKOFF,
) -> T: ...


def run(
    engine: "Engine | sessionmaker[Session]",
    work: Callable[..., T],
    *,
    store: ObjectStore | None = None,
    attempts: int = _ATTEMPTS,
    seconds: float = _SECONDS,
    backoff: Backoff = _BACKOFF,
) -> T:
    """Call `work` with the connection of a new transaction, commit, and return its result.

    `engine` may be a sessionmaker: then `work` gets a Session. `work` runs again in a new transaction after a deadlock,
    a lock that was waited for too long, a busy SQLite file, a lost connection or a WriteConflict, at most `attempts`
    times and until `seconds` have passed; then the last error is raised. So it must not do what cannot be repeated. A
    connection that is lost at the commit leaves in doubt whether the commit took place: `work` runs again then, too.
    For the writer that is right: an upsert or delete of a state that is stored already is skipped. Your own statements
    in `work` must bear it as well.

    Vectors come from outside the transaction, while no lock is held: after VectorRequired, those that the archive has
    are read from `store`, those of a call with an `embedder` are embedded, and `work` runs again with them.
    VectorRequired is raised for chunks that have neither.
    """
    require_engine(engine)
    supply = Supply(is_filled_outside=True)

    def attempt() -> T:
        with _begin(engine, supply) as transaction:
            return work(transaction)

    def attempt_with_vectors() -> T:
        while True:
            try:
                return attempt()
            except VectorRequired as error:
                missing = error
            _fill(supply, missing, engine, store)

    return call_with_retry(
        attempt_with_vectors,
        retry_on=lambda error: isinstance(error, WriteConflict) or is_transient(error),
        backoff=backoff,
        attempts=attempts,
        seconds=seconds,
    )


@contextmanager
def _begin(engine: "Engine | sessionmaker[Session]", supply: Supply) -> Iterator[Any]:
    """A transaction that names the supply; committed at the end of the block."""
    if isinstance(engine, Engine):
        with engine.connect() as connection:  # not an engine with options: receipts would hold the supply
            connection.execution_options(**{OPTION: supply})
            with connection.begin():
                yield connection
        return
    with engine() as session, session.begin():
        session.connection(execution_options={OPTION: supply})
        yield session


def _fill(
    supply: Supply, missing: VectorRequired, engine: "Engine | sessionmaker[Session]", store: ObjectStore | None
) -> None:
    """Get the missing vectors. Raises VectorRequired for those that neither the archive nor an embedder has."""
    # What is known of them did not help: the chunk may have another vector by now.
    unhelpful = {one.chunk_id: supply.known.pop(one.chunk_id, None) for one in missing.needed}
    if store is not None and (archived := [one for one in missing.needed if one.is_archived]):
        with _begin(engine, supply) as transaction:
            wanted = _select_archived(connection_of(transaction), archived)
        for doc_id, of_document in wanted.items():
            for row in archive.read_vectors(store, doc_id, of_document):
                stored = of_document[row.chunk_id]
                read_for = StoredVector(stored.version, stored.vector_digest)
                supply.known[row.chunk_id] = KnownVector(
                    row.vector, row.sparse, row.content_hash, row.content, read_for
                )
    needed = [one for one in missing.needed if one.chunk_id not in supply.known]
    if needed and supply.embedder is not None and all(one.content for one in needed):
        supply.embed(needed)
    elif needed:
        raise VectorRequired(needed) from missing
    if all(supply.known.get(chunk_id) == vector for chunk_id, vector in unhelpful.items()):
        raise missing


def _select_archived(connection: Connection, archived: Sequence[NeededVector]) -> dict[str, dict[str, archive.Wanted]]:
    """For each document, what `archive.read_vectors` needs of its chunks."""
    wanted: dict[str, dict[str, archive.Wanted]] = defaultdict(dict)
    names = ("doc_id", "chunk_id", "content_hash", "vector_version", "vector_digest")
    columns = select(*(chunks.c[name] for name in names))
    for row in select_for_ids(connection, columns, chunks.c.chunk_id, [one.chunk_id for one in archived]):
        wanted[row.doc_id][row.chunk_id] = archive.Wanted(row.content_hash, row.vector_version, row.vector_digest)
    return wanted
