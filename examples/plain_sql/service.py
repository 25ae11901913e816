"""A service without rag-outbox's library: PyMySQL and the SQL of docs/contract.md.

    python service.py --user rag-writer --database rag_outbox write documents.jsonl
    python service.py --user rag-writer --database rag_outbox delete handbook

The password is read from MYSQL_PWD.
"""

import argparse
import base64
import json
import os
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pymysql
from pymysql.constants import CLIENT

HERE = Path(__file__).parent
WRITE, DELETE = (HERE / "write.sql").read_text(), (HERE / "delete.sql").read_text()
ANOTHER_SERVER = (HERE / "another_server.sql").read_text()
ATTEMPTS = 5
LOCK_WAIT_TIMEOUT, DEADLOCK, COLUMN_IS_NULL = 1205, 1213, 1048


def main() -> None:
    options = parser().parse_args()
    with closing(connect(options)) as connection:
        if is_another_server(connection):  # better now than at the first write
            start_history(connection)
        if options.action == "delete":
            delete(connection, options.doc_id, options.user)
            print(f"deleted {options.doc_id}")
            return
        model, dimension = embedding_model(connection)
        for line in options.file.read_text().splitlines():
            document = json.loads(line)
            write(connection, document, model, dimension, options.user)
            print(f"wrote {document['doc_id']}")


def write(
    connection: "pymysql.Connection[Any]", document: Mapping[str, Any], model: str, dimension: int, operator: str
) -> None:
    """Write a document's whole state as its next version."""
    if any(len(chunk["vector"]) != dimension for chunk in document["chunks"]):
        raise SystemExit(f"{document['doc_id']}: vectors of {model} have {dimension} dimensions")
    chunks = [{"content": chunk["content"], "vector": encode(chunk["vector"])} for chunk in document["chunks"]]
    values = {
        "doc_id": document["doc_id"],
        "title": document["title"],
        "source_type": document["source_type"],
        "business_tag": document.get("business_tag"),
        "model": model,
        "dimension": dimension,
        "chunks": json.dumps(chunks),
        "operator": operator,
    }
    in_transaction(connection, lambda: execute(connection, WRITE, values))


def delete(connection: "pymysql.Connection[Any]", doc_id: str, operator: str) -> None:
    in_transaction(connection, lambda: execute(connection, DELETE, {"doc_id": doc_id, "operator": operator}))


def encode(vector: Sequence[float]) -> str:
    """Base64 of little-endian float32."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def is_another_server(connection: "pymysql.Connection[Any]") -> bool:
    """Whether this is a replica that was promoted: the first write on it starts a new history."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT server_uuid <> @@server_uuid FROM system_identity")
        return bool(cursor.fetchone() == (1,))


def start_history(connection: "pymysql.Connection[Any]") -> None:
    in_transaction(connection, lambda: execute(connection, ANOTHER_SERVER, {}))


def embedding_model(connection: "pymysql.Connection[Any]") -> tuple[str, int]:
    """Name and dimension of the model that all vectors of this system come from. Compare them with your own model."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT embedding_model, dimension FROM system_identity")
        row = cursor.fetchone()
    if row is None:
        raise SystemExit("the system has no embedding model yet; run: rag-outbox init")
    return row[0], row[1]


def execute(connection: "pymysql.Connection[Any]", script: str, values: Mapping[str, object]) -> None:
    """Bind the values as session variables, then run the script; it begins and commits its transaction itself."""
    with connection.cursor() as cursor:
        for name, value in values.items():
            cursor.execute(f"SET @{name} = %s", (value,))
        cursor.execute(script)
        while cursor.nextset():
            pass


def in_transaction(connection: "pymysql.Connection[Any]", work: Callable[[], None]) -> None:
    """Run the whole transaction again after a deadlock, a lock wait or a failover; undo it after any other error."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            work()
            return
        except pymysql.MySQLError as error:
            connection.rollback()
            if attempt == ATTEMPTS:
                raise
            if error.args[0] in {LOCK_WAIT_TIMEOUT, DEADLOCK}:
                time.sleep(0.05 * 2**attempt)
            elif error.args[0] == COLUMN_IS_NULL and is_another_server(connection):  # the column `history_id`
                start_history(connection)
            else:
                raise


def connect(options: argparse.Namespace) -> "pymysql.Connection[Any]":
    return pymysql.connect(
        host=options.host,
        port=options.port,
        user=options.user,
        password=os.environ.get("MYSQL_PWD", ""),
        database=options.database,
        client_flag=CLIENT.MULTI_STATEMENTS,  # a script is sent whole
        autocommit=True,  # the scripts begin and commit their transactions
    )


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3306)
    parser.add_argument("--user", required=True)
    parser.add_argument("--database", required=True)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("write", help="one JSON object per line").add_argument("file", type=Path)
    actions.add_parser("delete").add_argument("doc_id")
    return parser


if __name__ == "__main__":
    main()
