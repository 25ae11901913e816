"""The marks of the object-store sink: files whose removal is confirmed."""

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection

from consumers.marks import confirm_removed
from consumers.removals import complete_changes
from consumers.sink import Change
from schema.database.tables import document_files


class MinioMarks:
    def mark_applied(self, connection: Connection, changes: Sequence[Change]) -> None:
        removed = [
            (key, change.version) for change in changes for event in change.events for key in event.removed_files
        ]
        confirm_removed_files(connection, removed, [(one.doc_id, one.version) for one in changes if one.replace])

    def complete_removals(self, connection: Connection, changes: Sequence[Change]) -> list[Change]:
        columns = document_files.c
        return complete_changes(connection, changes, "removed_files", columns.object_key, columns.removed_in_version)


def confirm_removed_files(
    connection: Connection, removed: Iterable[tuple[str, int]], replaced: Iterable[tuple[str, int]] = ()
) -> None:
    """Objects whose removal is acknowledged, as (object key, version), or as (doc_id, version) of whole documents."""
    columns = document_files.c
    confirm_removed(connection, columns.object_key, columns.object_key, columns.removed_in_version, removed)
    confirm_removed(connection, columns.object_key, columns.doc_id, columns.removed_in_version, replaced)
