"""What `init` requires of the servers, and what it warns about, before it creates anything there."""

from collections.abc import Mapping

from sqlalchemy import Engine, text

from operations.errors import OperationError
from operations.wiring import System
from schema import limits
from schema.database.connection import reading

_OLDEST_MYSQL = (8, 0, 19)
_OLDEST_MILVUS = (2, 3, 5)
_LEAST_PACKET = 2 * limits.INSERT_BYTES  # a statement of the writer: its payloads, escaped
_DURABLE = {  # variable → its only value with which a commit survives a crash of the machine
    "innodb_flush_log_at_trx_commit": 1,
    "sync_binlog": 1,
}


class UnfitServer(OperationError):
    """Raised by `init` when a server cannot keep the guarantees; the message says what to change."""


def check_mysql(engine: Engine) -> list[str]:
    """A line per setting that weakens a guarantee; none on SQLite. Raises UnfitServer."""
    if engine.dialect.name != "mysql":
        return []
    names = ("max_allowed_packet", "log_bin", *_DURABLE)
    with reading(engine) as connection:
        row = connection.execute(text(f"SELECT VERSION(), {', '.join(f'@@GLOBAL.{name}' for name in names)}")).one()
    version, *values = row
    return judge_mysql(str(version), {name: int(value) for name, value in zip(names, values, strict=True)})


def check_milvus(system: System) -> None:
    """Raises UnfitServer. Milvus Lite comes with our packages, and needs no check."""
    if system.settings.milvus_lite is None:
        judge_milvus(system.with_milvus(lambda client: str(client.get_server_version())))


def judge_mysql(version: str, variables: Mapping[str, int]) -> list[str]:
    """See `check_mysql`; `version` as VERSION() says it."""
    if "mariadb" in version.lower():
        raise UnfitServer(f"the database server is MariaDB {version}; rag-outbox needs MySQL 8.0.19 or later")
    if _numbers(version) < _OLDEST_MYSQL:
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


def judge_milvus(version: str) -> None:
    """Raises UnfitServer; a name without numbers, as of a build from a branch, passes."""
    numbers = _numbers(version.removeprefix("v"))
    if numbers and numbers < _OLDEST_MILVUS:
        raise UnfitServer(f"the Milvus server is {version}; rag-outbox needs 2.3.5 or later")


def _numbers(version: str) -> tuple[int, ...]:
    """(8, 0, 36) of "8.0.36-0ubuntu0.22.04.1"."""
    return tuple(int(part) for part in version.partition("-")[0].split(".") if part.isdigit())
