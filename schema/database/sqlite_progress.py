"""How far an embedded relay has handed events to the sinks, in a file next to the SQLite database.

A database file that is replaced by an older copy uses outbox ids and versions again that the sinks have seen. The copy
is recognised by its counter of outbox ids, which is behind the number in this file. A copy that is older but lacks
nothing that a sink has seen is not a new history. A file that is missing or damaged says nothing.
"""

import logging
import os
import re
from pathlib import Path

from sqlalchemy import Connection, Engine, text

_log = logging.getLogger(__name__)

COUNTER = "(SELECT seq FROM sqlite_sequence WHERE name = 'outbox')"  # NULL before the first row


def note_relayed(engine: Engine, outbox_id: int) -> None:
    """Durably note, before the sinks get it, that the row with this id leaves; ids only grow. Nothing on MySQL."""
    path = _path(engine)
    if path is None or outbox_id <= _read(path):
        return
    part = path.with_name(f"{path.name}.{os.getpid()}")
    with part.open("w") as file:
        file.write(f"{outbox_id}\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # a power failure must not bring the former file back
    finally:
        os.close(folder)


def is_older_copy(engine: Engine, counter: int | None) -> bool:
    """Whether the database, whose COUNTER is given, lacks outbox ids that the sinks have seen."""
    path = _path(engine)
    return path is not None and (counter or 0) < _read(path)


def skip_used_ids(connection: Connection) -> None:
    """Let the outbox go on after the ids that the sinks have seen."""
    path = _path(connection.engine)
    if path is None:
        return
    relayed = _read(path)
    if (connection.execute(text(f"SELECT {COUNTER}")).scalar() or 0) >= relayed:
        return
    connection.execute(text("DELETE FROM sqlite_sequence WHERE name = 'outbox'"))
    connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES ('outbox', :seq)"), {"seq": relayed})


def _path(engine: Engine) -> Path | None:
    database = engine.url.database
    if engine.dialect.name != "sqlite" or database in (None, "", ":memory:"):
        return None
    return Path(f"{database}.relayed")


def _read(path: Path) -> int:
    """The number in the file; 0 without a file, or when it does not hold one whole line with a number."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return 0
    if not re.fullmatch(rb"[0-9]{1,19}\n", content):
        _log.warning("progress_unreadable file=%s", path)
        return 0
    return int(content)
