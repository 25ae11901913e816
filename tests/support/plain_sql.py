"""The SQL blocks of docs/contract.md: the tests run the SQL that a reader copies."""

import base64
import json
import re
import struct
from typing import Any

import pymysql

from tests.support.pipeline import DIMENSION, vector
from tests.support.servers import ROOT

_TEXT = (ROOT / "docs" / "contract.md").read_text()


def sql(heading: str) -> str:
    """The only ```sql block below a heading of the second level."""
    _, _, section = _TEXT.partition(f"\n## {heading}\n")
    [block] = re.findall(r"^```sql\n(.*?)^```$", section.partition("\n## ")[0], re.DOTALL | re.MULTILINE)
    return str(block)


VALUES = sql("What the service has")
UPSERT, FILE, EVENT = sql("Write a document"), sql("A file, if there is one"), sql("The event")
DELETE = sql("Delete a document")
ANOTHER_SERVER = sql("On another server")
WHOLE = sql("Reading from a replica")


class Service:
    """A service in another language: the SQL of the contract, several statements per call."""

    def __init__(self, connection: "pymysql.Connection[Any]") -> None:
        self._connection = connection

    def run(self, *blocks: str) -> None:
        with self._connection.cursor() as cursor:
            for block in blocks:
                cursor.execute(block)
                while cursor.nextset():
                    pass

    def bind(self, **values: object) -> None:
        with self._connection.cursor() as cursor:
            for name, value in values.items():
                cursor.execute(f"SET @{name} = %s", (value,))

    def upsert(self, *contents: str) -> None:
        """Write a version with these chunks and no file."""
        self.bind(chunks=json.dumps([{"content": content, "vector": encoded(content)} for content in contents]))
        self.run(UPSERT, EVENT)


def encoded(content: str) -> str:
    return base64.b64encode(struct.pack(f"<{DIMENSION}f", *vector(content))).decode()
