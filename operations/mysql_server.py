"""What `init` requires of a MySQL server, and what it warns about, before it creates a table there."""

from collections.abc import Mapping

from sqlalchemy import Engine, text

from operations.errors import OperationError
from schema import limits
from schema.database.connection import reading

_OLDEST = (8, 0, 19)
_LEAST_PACKET = 2 * limits.INSERT_BYTES  # a statement of the writer: its payloads, escaped
_DURABLE = {  # variable → its only value with which a commit survives a crash of the machine
    "innodb_flush_log_at_trx_commit": 1,
    "sync_binlog": 1,
}


class UnfitServer(OperationError):
    """Raised by `init` when the database server cannot keep the guarantees; the message says what to change."""


def check(engine: Engine) -> list[str]:
    """A line per setting that weakens a guarantee; none on SQLite. Raises UnfitServer."""
    if engine.dialect.name != "mysql":
        return []
    names = ("max_allowed_packet", "log_bin", *_DURABLE)
    with reading(engine) as connection:
        row = connection.execute(text(f"SELECT VERSION(), {', '.join(f'@@GLOBAL.{name}' for name in names)}")).one()
    version, *values = row
    return judge(str(version), {name: int(value) for name, value in zip(names, values, strict=True)})


def judge(version: str, variables: Mapping[str, int]) -> list[str]:
    """See `check`; `version` as VERSION() says it."""
    if "mariadb" in version.lower():
        raise UnfitServer(f"the database server is MariaDB {version}; rag-outbox needs MySQL 8.0.19 or later")
    if _numbers(version) < _OLDEST:
        raise UnfitServer(f"the database server is MySQL {version}; rag-outbox needs 8.0.19 or later")
    packet = variables["max_allowed_packet"]
    if packet < _LEAST_PACKET:
        raise UnfitServer(f"MySQL has max_allowed_packet={packet}, and must have at least {_LEAST_PACKET}")
    weak = [name for name, value in _DURABLE.items() if variables[name] != value]
    if not variables["log_bin"]:
        weak = [name for name in weak if name != "sync_binlog"]
    return [
        f"MySQL has {name}={variables[name]}: a crash of the server may lose commits; set it to {_DURABLE[name]}"
        for name in weak
    ]


def _numbers(version: str) -> tuple[int, ...]:
    """(8, 0, 36) of "8.0.36-0ubuntu0.22.04.1"."""
    return tuple(int(part) for part in version.partition("-")[0].split(".") if part.isdigit())
