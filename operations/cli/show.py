"""`rag-outbox show`."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from operations import settings
from operations.cli.options import Json, require_unicode
from operations.cli.output import Output, table

EXAMPLE = "rag-outbox show handbook-3f2a90c1d4e5 --chunks 20"

_LABELS = ("source_type", "source_url", "business_tag", "domain", "language")
_PREVIEW_CHARACTERS = 80


def command(
    doc_id: Annotated[str, typer.Argument(metavar="DOC_ID", help="The document to show.")],
    chunks: Annotated[int, typer.Option(min=0, max=100_000, help="The number of chunks to show.")] = 5,
    as_json: Json = False,
) -> None:
    """Show a document: labels, files, chunks, its state in every sink, waiting events, and its last operations."""
    from operations import wiring
    from operations.documents.details import describe

    require_unicode(DOC_ID=doc_id)
    output = Output(json=as_json)
    with wiring.open_system(settings.load()) as system:
        document = describe(system, doc_id, chunk_count=chunks)
    output.result(document, *_lines(document))


def _lines(one: Mapping[str, Any]) -> Iterator[str | Table]:
    yield f"{one['title']}  [{one['doc_id']}]"
    yield f"{one['state']}, version {one['version']} of history {one['history_id']}"
    yield f"created {one['created_at']}, updated {one['updated_at']}" + (
        f", deleted {one['deleted_at']}" if one["deleted_at"] else ""
    )
    yield "  ".join(f"{name}={one[name]}" for name in _LABELS if one[name] is not None)
    sinks = table("sink", "state", "#applied", "#wanted", "reason")
    for name, sink in one["sinks"].items():
        reason = sink["last_error"] or "-"
        sinks.add_row(name, sink["state"], str(sink["applied_version"]), str(sink["desired_version"]), reason)
    yield sinks
    for file in one["files"]:
        removed = "  (being removed)" if file["removed_in_version"] is not None else ""
        yield f"file: {file['kind']}, {file['size_bytes']} bytes, {file['location']}{removed}"
    yield f"Chunks: {'not made yet' if one['chunk_count'] is None else one['chunk_count']}"
    for chunk in one["chunks"]:
        synced = "in Milvus" if chunk["milvus_synced"] else "not in Milvus yet"
        content = " ".join(chunk["content"].split())[:_PREVIEW_CHARACTERS]
        yield f"  {chunk['chunk_index']}  {chunk['chunk_id']}  {synced}  {content}"
    for event in one["events"]:
        size = f"{event['payload_bytes']} bytes, since {event['created_at']}"
        yield f"waiting event: {event['event_type']} version {event['aggregate_version']}, {size}"
    for letter in one["dead_letters"]:
        yield f"dead letter: {letter['stage']} version {letter['aggregate_version']}: {letter['error']}"
    for task in one["tasks"]:
        yield f"task: {task['task_type']} {task['status']} {task['error_message'] or ''}".rstrip()
    for operation in one["operations"]:
        yield f"{operation['created_at']}  {operation['operation_type']} by {operation['operator']}"
