"""MySQL and its replica, from Debian's archive. Its own loader runs it, so it needs no library of the system."""

import os
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pymysql
from pymysql.cursors import DictCursor

from compose.native import debian, process, tools, versions
from compose.native.cache import Cache
from compose.native.mysql_client import LOADERS, write_scripts
from compose.native.output import say
from compose.native.ports import HOST
from compose.native.process import Process
from compose.native.state import State, write_private

DATABASE = "rag_outbox"
REPLICATION_USER = "replication"
KEY = f"mysql-{versions.MYSQL}"

# A commit is on disk before it is acknowledged. Replicas and other binlog readers need GTIDs and full row metadata.
OPTIONS = (
    "--sync-binlog=1",
    "--innodb-flush-log-at-trx-commit=1",
    "--log-bin=binlog",
    "--binlog-row-metadata=FULL",
    "--gtid-mode=ON",
    "--enforce-gtid-consistency=ON",
    "--innodb-buffer-pool-size=2G",  # allocated as needed; claiming a backlog from disk costs twice as much
    "--innodb-redo-log-capacity=1G",  # with 100 MB, draining a backlog flushes pages to disk
    "--event-scheduler=OFF",  # unused; with a replica, a shutdown would wait 8 s for it
)


class MySQL:
    """The primary."""

    name = "mysql"
    port_names: tuple[str, ...] = ("port",)
    start_seconds = 60.0
    server_id = 1
    more_options: tuple[str, ...] = ()

    def __init__(self, cache: Cache, state: State) -> None:
        self._cache = cache
        self._state = state
        self._root = cache.folder(KEY) / "root"
        self._home = state.folder / self.name
        self._client = self._home / "client"
        self.log = self._home / "mysqld.log"

    @property
    def version(self) -> str:
        try:
            return (self._root.parent / "VERSION").read_text()
        except FileNotFoundError:
            return versions.MYSQL

    def fetch(self) -> None:
        tools.need_machine("mysql", *LOADERS)
        self._cache.fill_once("mysql", KEY, self._fill)

    def _fill(self, part: Path) -> None:
        packages = ["mysql-server-core", "mysql-client-core"]
        debian.unpack("mysql", versions.MYSQL_SUITE, packages, part, self._cache.root / f"{KEY}.log")
        [server] = (part / "apt/cache/archives").glob("mysql-server-core_*.deb")
        found = re.search(r"_(?:\d+%3a)?([\d.]+)", server.name)
        version = found[1] if found else server.name
        if not version.startswith(f"{versions.MYSQL}."):
            say("mysql", f"the archive has {version}; this was tested with {versions.MYSQL}")
        (part / "VERSION").write_text(version)
        tools.remove(part / "apt")

    def start(self) -> Process:
        self._home.mkdir(parents=True, exist_ok=True)
        write_scripts(self._root, self._client)
        if not (self._home / "initialised").exists():
            tools.remove(self._home / "data")  # left by an initialisation that was interrupted
            script = self._home / "init.sql"
            write_private(script, self._first_statements().encode())
            command = [*self._command(), "--initialize-insecure", f"--init-file={script}"]
            tools.run(self.name, command, self._home / "initialise.log")
            script.unlink()
            (self._home / "initialised").touch()
        command = [
            *self._command(),
            f"--port={self._port}",
            f"--bind-address={HOST}",
            "--socket=mysqld.sock",  # relative to the data folder: an absolute path may be too long for a socket
            "--pid-file=mysqld.pid",
            f"--server-id={self.server_id}",
            *OPTIONS,
            *self.more_options,
        ]
        return process.spawn(command, self._home, self.log, {})

    def ready(self) -> str | None:
        try:
            self._query("SELECT 1")
        except pymysql.MySQLError as error:
            return str(error)
        return None

    def stop(self, running: Process) -> bool:
        return process.stop(running, patience_seconds=30.0)

    def url(self) -> str:
        return f"mysql://{HOST}:{self._port}/{DATABASE}"

    def environment(self) -> dict[str, str]:
        return {
            "RAG_OUTBOX_DATABASE_URL": self._sqlalchemy_url(),
            "RAG_OUTBOX_MYSQL_CLIENT_DIR": str(self._client),
        }

    def _sqlalchemy_url(self) -> str:
        return f"mysql+pymysql://root:{self._state.password}@{HOST}:{self._port}/{DATABASE}"

    @property
    def _port(self) -> int:
        return self._state.record(self.name).ports["port"]

    def _first_statements(self) -> str:
        """Statements before the first start, outside of the binlog: primary and replica start equal."""
        password = self._state.password
        return (
            f"ALTER USER 'root'@'localhost' IDENTIFIED BY '{password}';\n"
            f"CREATE USER '{REPLICATION_USER}'@'localhost' IDENTIFIED BY '{password}';\n"
            f"GRANT REPLICATION SLAVE ON *.* TO '{REPLICATION_USER}'@'localhost';\n"
            f"CREATE DATABASE {DATABASE};\n"
        )

    def _command(self) -> list[str | Path]:
        usr = self._root / "usr"
        machine = tools.need_machine("mysql", *LOADERS)
        libraries = usr / "lib" / f"{machine}-linux-gnu"
        return [
            libraries / LOADERS[machine],
            "--library-path",
            libraries,
            usr / "sbin/mysqld",
            "--no-defaults",
            f"--basedir={usr}",
            f"--lc-messages-dir={usr}/share/mysql",
            f"--character-sets-dir={usr}/share/mysql/charsets",
            f"--plugin-dir={usr}/lib/mysql/plugin",
            f"--datadir={self._home}/data",
            "--mysqlx=OFF",
            "--secure-file-priv=NULL",
            *(["--user=root"] if os.geteuid() == 0 else []),
        ]

    def _query(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        connection = pymysql.connect(
            host=HOST,
            port=self._port,
            user="root",
            password=self._state.password,
            connect_timeout=2,
            read_timeout=10,
            cursorclass=DictCursor,
        )
        with closing(connection), connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return list(cursor.fetchall())


class Replica(MySQL):
    """A second MySQL that follows the primary by GTID and refuses writes."""

    name = "mysql-replica"
    server_id = 2
    more_options = ("--super-read-only=ON", "--skip-replica-start=ON")

    def ready(self) -> str | None:
        """Also starts replication, again if the primary has another port than in the last run."""
        try:
            replication = self._query("SHOW REPLICA STATUS")
            if not replication or replication[0]["Source_Port"] != self._source_port:
                self._follow()
                return "replication starts"
        except pymysql.MySQLError as error:
            return str(error)
        [status] = replication
        if status["Replica_IO_Running"] == status["Replica_SQL_Running"] == "Yes":
            return None
        if status["Replica_IO_Running"] == status["Replica_SQL_Running"] == "No" and not status["Last_Error"]:
            self._query("START REPLICA")
        return status["Last_IO_Error"] or status["Last_SQL_Error"] or "replication starts"

    def environment(self) -> dict[str, str]:
        return {"RAG_OUTBOX_TEST_REPLICA_URL": self._sqlalchemy_url()}

    @property
    def _source_port(self) -> int:
        return self._state.record(MySQL.name).ports["port"]

    def _follow(self) -> None:
        self._query("STOP REPLICA")
        self._query(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST = %s, SOURCE_PORT = %s, SOURCE_USER = %s, SOURCE_PASSWORD = %s, "
            "SOURCE_AUTO_POSITION = 1, SOURCE_CONNECT_RETRY = 1, GET_SOURCE_PUBLIC_KEY = 1",
            HOST,
            self._source_port,
            REPLICATION_USER,
            self._state.password,
        )
        self._query("START REPLICA")
