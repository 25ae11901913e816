"""How far an embedded relay has handed events to the sinks, in a file next to the SQLite database.

A database file that is replaced by an older copy uses outbox ids and versions again that the sinks have seen. The copy
is recognised by its counter of outbox ids, which is behind the number in this file. A copy that is older but lacks
nothing that a sink has seen is not a new history.
"""

import os
from pathlib import Path

from sqlalchemy import Connection, Engine, text

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
    if engine.dialect.name != "sqlite" or not engine.url.database:
        return None
    return Path(f"{engine.url.database}.relayed")


def _read(path: Path) -> int:
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return 0
