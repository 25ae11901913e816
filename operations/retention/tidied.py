"""The table `tidied_documents`: at which version of a document retention has nothing more to remove.

The next version of the document, a deletion or a new creation, makes the row void.
"""

from collections.abc import Mapping

from sqlalchemy import Connection
from sqlalchemy.dialects import mysql, sqlite

from schema.database.tables import tidied_documents


def note_tidied(connection: Connection, versions: Mapping[str, int]) -> None:
    if not versions:
        return
    rows = [{"doc_id": doc_id, "version": version} for doc_id, version in sorted(versions.items())]
    if connection.dialect.name == "mysql":
        of_mysql = mysql.insert(tidied_documents)
        connection.execute(of_mysql.on_duplicate_key_update(version=of_mysql.inserted.version), rows)
    else:
        of_sqlite = sqlite.insert(tidied_documents)
        replaced = {"version": of_sqlite.excluded.version}
        connection.execute(of_sqlite.on_conflict_do_update(index_elements=["doc_id"], set_=replaced), rows)
