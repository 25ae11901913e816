"""Systems that share servers: each has its own MySQL database, all else is given."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, make_url, text

from tests.support.commands import Folder
from tests.support.pipeline import DIMENSION, MODEL, vector
from tests.support.servers import MinioServer, Servers, empty_database


@dataclass(frozen=True)
class Shared:
    """One of the systems."""

    folder: Folder
    engine: Engine

    @property
    def system_id(self) -> str:
        [(system_id,)] = self.rows("SELECT system_id FROM system_identity")
        return str(system_id)

    def rows(self, statement: str) -> list[Any]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement))]

    def holds(self, statement: str, *rows: tuple[Any, ...]) -> bool:
        return self.rows(statement) == list(rows)

    def at(self, **settings: str) -> Folder:
        """The same system with other settings."""
        return Folder(self.folder.path, **self.folder.settings | settings)

    def initialise(self) -> None:
        done = self.folder.run("init")
        assert done.status == 0, done

    def write(self, count: int, word: str) -> None:
        """Documents d0, d1, …, each with a file and one chunk that says `word`."""
        lines = []
        for number in range(count):
            content = f"{word} {number}"
            lines.append(
                {
                    "doc_id": f"d{number}",
                    "title": word,
                    "source_type": "text",
                    "file": {"base64": "eA==", "name": f"{word}.txt"},
                    "chunks": [{"content": content, "vector": vector(content)}],
                }
            )
        self.folder.succeed("write", "-", stdin="\n".join(map(json.dumps, lines)).encode())


@contextmanager
def system(path: Path, servers: Servers, minio: MinioServer, **settings: str) -> Iterator[Shared]:
    """A new database, for the services profile if `settings` name Kafka's servers; `init` has not run."""
    path.mkdir(exist_ok=True)
    profile = "services" if "kafka_bootstrap_servers" in settings else "embedded"
    with empty_database(make_url(servers.mysql_url)) as engine:
        folder = Folder(
            path,
            profile=profile,
            database_url=engine.url.render_as_string(hide_password=False),
            object_store=minio.url,
            object_store_access_key=minio.access_key,
            object_store_secret_key=minio.secret_key,
            embedding_model=MODEL,
            vector_dimension=str(DIMENSION),
            **settings,
        )
        yield Shared(folder, engine)
