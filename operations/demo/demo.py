"""`rag-outbox demo`: the whole pipeline on real documents, then a crash drill.

The documents are the descriptions of the installed Python distributions, which every machine has, and a file per format
that this package brings. The demo changes nothing outside its folder.
"""

import importlib.metadata
import io
import json
import shutil
import sys
import threading
import time
import traceback
from pathlib import Path

from sqlalchemy import func, select

import producer
from operations import wiring
from operations.cli.output import Output
from operations.demo import crash_drill, samples
from operations.errors import OperationError
from operations.ingest import files as ingest_files
from operations.ingest import sources
from operations.ingest.sources import Source
from operations.ingest.walk import find
from operations.ingest.write import Written, write
from operations.init import init
from operations.profiles import embedded
from operations.reconcile.reconcile import reconcile, scope_of
from operations.settings import Settings
from operations.wiring import System
from producer.processing.chunk.markdown_headings import MarkdownHeadings
from producer.processing.embed.port import embed_query
from producer.processing.extract.extract import FileExtractor, extract
from retrieval.search import Hit, search
from schema.database.connection import reading
from schema.database.outbox_rows import envelope_of
from schema.database.tables import chunks, outbox
from schema.events.events import DocumentUpserted, decode

_MARKER = ".rag-outbox-demo"
_MIN_CHARACTERS = 400
_MAX_DOCUMENTS = 80  # an environment may have hundreds of distributions
_EDITED = "rich"  # a dependency of ours; step 5 changes its document
_DRILL_TAG = "crash-drill"
_QUESTION = "draw progress bars and tables in a terminal"
_ADDED = (
    "The astronomers of Samarkand measured the length of the year with a sextant of forty metres, built of marble into "
    "the rock of a hill. The sun came in through a slit in the roof and wandered over the marked arc; the higher it "
    "stood at noon, the lower fell its light. From many such noons they reckoned a year of 365 days, 6 hours, 10 "
    "minutes and 8 seconds, less than a minute too long."
)
_ADDED_QUESTION = "how did astronomers measure the year"


class DemoFailed(OperationError):
    """Raised when a step of the demo fails; the message names the demo's log."""


def demo(folder: Path, output: Output) -> None:
    """Run the demo in `folder`. Raises DemoFailed, and FileExistsError if `folder` has other content than a demo."""
    folder = folder.resolve()
    _make(folder)
    log = folder / "demo.log"
    try:
        _show_all(folder, log, output)
    except Exception as error:
        with log.open("a") as file:
            traceback.print_exception(error, file=file)
        raise DemoFailed(f"the demo failed: {error}; its log: {log}") from error


def _show_all(folder: Path, log: Path, output: Output) -> None:
    started = time.monotonic()
    settings = Settings.model_construct(data_dir=folder / "data")  # the defaults: the environment is ignored

    output.heading("1  init: tables, embedding model, collection, bucket")
    init(settings)
    output.result({}, f"   {settings.data_dir}")
    with wiring.open_system(settings) as system:
        _pipeline(system, folder / "documents", output)
        _update_and_delete(system, folder / "documents", output)
        output.heading("6  crash drill: kill write and run (SIGKILL) while both have work left, then start them again")
        show_crash_drill(system, folder / "documents", log, output)
    command = "rag-outbox" if shutil.which("rag-outbox") else sys.argv[0]
    output.heading(f"Done in {time.monotonic() - started:.0f} s. What is where, and what to try next:")
    output.result(
        {},
        f"   documents   {folder / 'documents'}",
        f"   SQLite      {settings.data_dir / 'metadata.db'}",
        f"   Milvus Lite {settings.milvus_lite}",
        f"   objects     {settings.objects}",
        "",
        f"   export RAG_OUTBOX_DATA_DIR={settings.data_dir}",
        f'   {command} search "parse dates and time zones"',
        f"   {command} status",
        f"   {command} ingest PATH… && {command} run --until-idle",
    )


def _pipeline(system: System, folder: Path, output: Output) -> None:
    output.heading("2  ingest: extract, chunk, embed, and write one transaction per batch")
    count = _write_descriptions(folder)
    copied = samples.copy_readable(folder)
    count += len(copied)
    for sample in samples.SAMPLES:
        if sample.missing_extra is not None:
            output.result({}, f"   left out: {sample.name} needs the extra {sample.missing_extra}")
    ingested = _ingest(system, folder, output)
    _require(ingested.written == count, f"{ingested.written} of {count} documents written: {ingested.failed}")
    output.result({}, f"   {ingested.written} documents with {ingested.chunks} chunks")

    output.heading("3  run: apply the events to Milvus and the object store")
    _relay(system, output)

    output.heading(f"4  search: {_QUESTION!r}")
    hits = _search(system, _QUESTION, limit=3)
    _require(bool(hits), "the search found nothing")
    _show(hits, output)
    for sample in copied:
        output.result({}, f"   {sample.question!r}")
        [hit] = _search(system, sample.question, limit=1)
        expected = sources.doc_id(sources.absolute(folder / sample.name))
        _require(hit.doc_id == expected, f"{sample.question!r} finds {hit.title!r} and not {sample.name}")
        _show([hit], output, name=sample.name)


def _update_and_delete(system: System, folder: Path, output: Output) -> None:
    path = folder / f"{_EDITED}.md"
    doc_id = sources.doc_id(sources.absolute(path))
    output.heading(f"5  update and delete {path.name}")
    path.write_text(f"{path.read_text()}\n\n# Samarkand\n\n{_ADDED}\n")
    _ingest(system, folder, output)
    vectors, total = _chunks_in_event(system, doc_id)
    _relay(system, output)
    found = _search(system, _ADDED_QUESTION, limit=1)
    _require(found[0].doc_id == doc_id, "the search does not find the new paragraph")
    output.result({}, f"   one paragraph added: the event carried {vectors} of {total} chunks")
    _show(found, output)

    producer.run(system.engine, lambda connection: system.writer().delete(connection, doc_id))
    _relay(system, output)
    left = [hit for hit in _search(system, _ADDED_QUESTION, limit=50) if hit.doc_id == doc_id]
    _require(not left, "a search still finds the deleted document")
    output.result({}, "   document deleted: the same search no longer finds it")


def show_crash_drill(system: System, folder: Path, log: Path, output: Output) -> None:
    """Kill `write` and `run` at work on the texts in `folder`, restart both, compare the stores. Raises DemoFailed."""
    lines = _short_documents(folder)
    least = crash_drill.MIN_DOCUMENTS
    _require(len(lines) >= least, f"the installed packages give {len(lines)} short texts; the drill needs {least}")
    with output.progress("Waiting until both have work left", None):
        killed = crash_drill.kill_in_the_middle(system, lines, _DRILL_TAG, log)
    output.result(
        {},
        f"   killed with {killed.written} of {len(lines)} documents written and {killed.applied} applied "
        f"({killed.pending} events pending)",
    )
    with output.progress("Writing bytes", sum(map(len, lines))) as bar:
        again = Written()
        write(system, io.BytesIO(b"".join(lines)), None, again, bar.advance)
    written = again.written + again.unchanged
    _require(written == len(lines), f"{written} of {len(lines)} documents are written")
    _relay(system, output)
    report = reconcile(system, scope_of(system, digests=True, vectors=True))
    first = report.differences[:3]
    _require(report.is_healthy, f"{report.findings.total} differences between the stores, the first: {first}")
    _require(not report.findings.waiting, f"documents wait for a sink: {report.findings.waiting}")
    with reading(system.engine) as connection:
        rows = connection.execute(select(func.count()).select_from(chunks)).scalar_one()
    output.result(
        {},
        f"   started again: {again.written} documents written, {again.unchanged} already present",
        f"   compared {rows} chunks in SQLite with the rows in Milvus, and every object by its SHA-256: 0 differences,",
        "   nothing lost, nothing doubled, nothing left over",
    )


def _ingest(system: System, folder: Path, output: Output) -> ingest_files.Ingested:
    files = list(find([folder], Source()).files.values())
    done = ingest_files.Ingested()
    labels = ingest_files.Labels(business_tag=folder.name)
    with output.progress("Ingesting files", len(files)) as bar, FileExtractor() as extractor:
        ingest_files.ingest(system, files, labels, done, bar.advance, ingest_files.ReadOptions(extractor))
    return done


def _relay(system: System, output: Output) -> None:
    started = time.monotonic()
    with output.progress("Relaying events", embedded.pending_events(system)) as bar:
        relayed = embedded.run(
            system,
            threading.Event(),
            until_idle=True,
            patience_seconds=30.0,
            report=bar.advance,
            failing=lambda reason, _: output.note(reason),
        )
    output.result({}, f"   {relayed} events applied to both stores in {time.monotonic() - started:.1f} s")


def _chunks_in_event(system: System, doc_id: str) -> tuple[int, int | None]:
    """The number of chunks in the document's event in the outbox, and in the document."""
    with reading(system.engine) as connection:
        row = connection.execute(select(outbox).where(outbox.c.aggregate_id == doc_id)).one()
    event = decode(envelope_of(row))
    _require(isinstance(event, DocumentUpserted), "the update is not an upsert")
    assert isinstance(event, DocumentUpserted)
    return len(event.chunks), event.chunk_count


def _write_descriptions(folder: Path) -> int:
    """Write one Markdown file per distribution; returns the number of files."""
    folder.mkdir()
    described = {
        distribution.name.lower(): text
        for distribution in importlib.metadata.distributions()
        if isinstance(text := distribution.metadata.json.get("description"), str) and len(text) >= _MIN_CHARACTERS
    }
    for name in sorted(described, key=lambda name: (name != _EDITED, name))[:_MAX_DOCUMENTS]:
        (folder / f"{name}.md").write_text(f"# {name}\n\n{described[name]}\n", errors="replace")
    return len(list(folder.iterdir()))


def _short_documents(folder: Path) -> list[bytes]:
    """The same texts as JSON lines for `rag-outbox write`: one document per chunk."""
    lines: list[bytes] = []
    for path in sorted(folder.glob("*.md")):
        for piece in MarkdownHeadings().chunk(extract(path).text):
            document = {
                "doc_id": f"piece-{len(lines) + 1:05d}",
                "title": f"A piece of {path.stem}",
                "source_type": "text",
                "business_tag": _DRILL_TAG,
                "chunks": [{"content": piece.content}],
            }
            lines.append(json.dumps(document).encode() + b"\n")
    return lines


def _search(system: System, text: str, *, limit: int) -> list[Hit]:
    vector = embed_query(system.require_embedder(), text)
    return search(system.engine, system.store, system.with_own_collection, vector, limit=limit)


def _show(hits: list[Hit], output: Output, name: str | None = None) -> None:
    for hit in hits:
        text = " ".join(hit.content.split())
        output.result({}, f"   {hit.score:.3f}  {name or hit.title}: {text[:100]}{'…' if len(text) > 100 else ''}")


def _make(folder: Path) -> None:
    if folder.exists() and not (folder / _MARKER).exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} exists and is not a demo; choose another folder with --folder")
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / _MARKER).touch()


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise DemoFailed(message)
