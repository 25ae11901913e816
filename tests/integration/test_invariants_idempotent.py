"""Invariants 6 and 7: in whatever way events reach the sinks, the sinks end with the newest version of every document.

Events are delivered repeatedly, late, out of order, in parts, in batches of any size, to one sink or both, between and
after the writes. A plain dictionary holds the expected state.
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymilvus import MilvusClient
from sqlalchemy import event

from consumers.milvus.sink import MilvusSink
from consumers.minio.sink import MinioSink
from producer import Chunk, Document, DocumentFile, FileRequired, UnknownDocument, VectorRequired, Writer
from schema import limits
from schema.batches import bounded
from schema.database.connection import connect
from schema.database.tables import metadata
from schema.events.events import Envelope
from schema.object_store.directory import DirectoryStore
from schema.sinks import MILVUS, MINIO
from tests.support.pipeline import DIMENSION, MODEL, SYSTEM_ID, Pipeline, document, set_model, vector

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Write:
    doc_id: str
    words: tuple[str, ...]  # one chunk per word
    tag: str | None = None
    level: str = "text"
    file: bytes | None = None
    extension: str = "md"


@dataclass(frozen=True)
class Delete:
    doc_id: str


@dataclass(frozen=True)
class Deliver:
    """Deliver (number of a write, number of its parts) to `sinks`, `size` events per batch."""

    sinks: tuple[str, ...]
    events: tuple[tuple[int, int], ...]
    size: int


@dataclass(frozen=True)
class Relay:
    """The relay runs until the outbox is empty."""


Step = Write | Delete | Deliver | Relay

DOC_IDS = st.sampled_from(["a", "b"])
STEPS = st.one_of(
    st.builds(
        Write,
        DOC_IDS,
        st.lists(st.sampled_from(["one", "two", "three"]), min_size=1, max_size=4).map(tuple),
        st.sampled_from([None, "hr"]),
        st.sampled_from(["text", "row"]),
        st.sampled_from([None, b"first", b"second", b"large" * 20_000]),
        st.sampled_from(["md", "txt"]),
    ),
    st.builds(Delete, DOC_IDS),
    st.builds(
        Deliver,
        st.sampled_from([(MILVUS,), (MINIO,), (MILVUS, MINIO)]),
        st.lists(st.tuples(st.integers(0, 8), st.integers(1, 9)), min_size=1, max_size=6).map(tuple),
        st.integers(1, 4),
    ),
    st.builds(Relay),
)


@dataclass
class World:
    """The pipeline, all events that were ever written, and the expected documents."""

    pipeline: Pipeline
    written: list[list[Envelope]] = field(default_factory=list)  # the parts of each write
    expected: dict[str, Write | None] = field(default_factory=dict)  # None: deleted

    def take(self, step: Step) -> None:
        match step:
            case Write():
                self._write(step)
            case Delete(doc_id):
                with suppress(UnknownDocument):
                    self.pipeline.delete(doc_id)
                    self.expected[doc_id] = None
                    self._record(doc_id)
            case Deliver(sinks, events, size):
                if self.written:
                    parts = [self.written[number % len(self.written)][:count] for number, count in events]
                    self.deliver(sinks, [envelope for some in parts for envelope in some], size)
            case Relay():
                self.pipeline.run()

    def deliver(self, sinks: Sequence[str], envelopes: Sequence[Envelope], size: int) -> None:
        for applier in self.pipeline.appliers():
            if applier.name in sinks:
                for batch in bounded(envelopes, size):
                    assert applier.apply(batch) == []

    def newest(self) -> list[Envelope]:
        """The events of each document's newest version; the document that was written last comes first."""
        newest = {envelope.doc_id: parts for parts in self.written for envelope in parts}
        return [envelope for parts in reversed(newest.values()) for envelope in parts]

    def drop_older_events(self) -> None:
        self.pipeline.execute(
            "DELETE FROM outbox WHERE aggregate_version < (SELECT version FROM documents WHERE doc_id = aggregate_id)"
        )

    def assert_as_expected(self) -> None:
        self.pipeline.assert_in_step()
        self._assert_documents(list(self.expected))

    def assert_marks_are_honest(self) -> None:
        """At any time, every chunk marked as synced and every document marked as completed is so."""
        rows = self.pipeline.milvus_rows()
        for chunk in self.pipeline.sql("SELECT * FROM chunks WHERE milvus_synced"):
            row = rows[chunk.chunk_id]
            assert (chunk.content, chunk.vector_level) == (row["content"], row["vector_level"])
        completed = self.pipeline.sql("SELECT doc_id FROM documents WHERE status = 'completed'")
        self._assert_documents([document.doc_id for document in completed])

    def _assert_documents(self, doc_ids: Sequence[str]) -> None:
        """All three stores hold what was written last."""
        rows, chunks, files = defaultdict(list), defaultdict(list), defaultdict(list)
        for row in self.pipeline.milvus_rows().values():
            rows[row["doc_id"]].append((row["content"], row["business_tag"], row["vector_level"]))
        for chunk in self.pipeline.sql("SELECT doc_id, content FROM chunks ORDER BY chunk_index"):
            chunks[chunk.doc_id].append(chunk.content)
        for key, content in self.pipeline.objects().items():
            if key.startswith("raw-files/"):
                doc_id, extension = key.rpartition("/")[2].split(".")
                files[doc_id].append((content, extension))
        for doc_id in doc_ids:
            want = self.expected[doc_id] or Write(doc_id, ())
            assert chunks[doc_id] == list(want.words)
            assert sorted(rows[doc_id]) == sorted((word, want.tag or "", want.level) for word in want.words)
            assert files[doc_id] == ([] if want.file is None else [(want.file, want.extension)])

    def _write(self, step: Write) -> None:
        """Write without vectors and file first, then with those that the writer requires."""
        old = self.expected.get(step.doc_id)
        if step.file is None and old is not None:
            want = Write(step.doc_id, step.words, step.tag, step.level, old.file, old.extension)
        else:
            want = step
        vectors: Sequence[int] = ()
        file = None if step.file is None else want
        while True:
            try:
                self.pipeline.upsert(_document(step, vectors, file, self.pipeline.store))
                break
            except VectorRequired as error:
                assert not vectors
                vectors = error.chunks[step.doc_id]
            except FileRequired:
                assert file is None
                file = want
        self.expected[step.doc_id] = want
        self._record(step.doc_id)

    def _record(self, doc_id: str) -> None:
        version = self.pipeline.sql("SELECT version FROM documents WHERE doc_id = :id", id=doc_id)[0].version
        new = [envelope for envelope in self.pipeline.pending(doc_id) if envelope.version == version]
        if new and new not in self.written[-1:]:
            self.written.append(new)


def _document(step: Write, vectors: Sequence[int], file: Write | None, store: DirectoryStore) -> Document:
    chunks = [
        Chunk(content=word, vector=vector(word) if position in vectors else None, vector_level=step.level)
        for position, word in enumerate(step.words)
    ]
    given_file = None
    if file is not None and file.file is not None:
        given_file = DocumentFile.from_bytes(file.file, f"original.{file.extension}", store)
    return Document(
        doc_id=step.doc_id, title="T", source_type="text", chunks=chunks, business_tag=step.tag, file=given_file
    )


@contextmanager
def new_world(milvus: MilvusClient) -> Iterator[World]:
    """A new database and folder, and an empty Milvus collection."""
    sink = MilvusSink(milvus, DIMENSION, SYSTEM_ID)
    sink.create()
    with tempfile.TemporaryDirectory() as folder:
        engine = connect(f"sqlite:///{folder}/metadata.db")
        event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous=OFF"))  # no test cuts the power
        metadata.create_all(engine)
        with engine.begin() as connection:
            set_model(connection)
        store = DirectoryStore(Path(folder) / "objects")
        minio = MinioSink(store, SYSTEM_ID)
        minio.create()
        pipeline = Pipeline(engine, store, milvus, Writer(MODEL), sink, minio)
        if stale := list(pipeline.milvus_rows()):
            milvus.delete("rag_vectors", ids=stale)
        try:
            yield World(pipeline)
        finally:
            minio.close()
            engine.dispose()


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # every example empties the shared collection
)
@given(steps=st.lists(STEPS, min_size=2, max_size=12), whole=st.booleans(), dropped=st.booleans())
def test_invariant_6_any_order_of_events_leads_to_the_newest_state(
    milvus: MilvusClient, steps: list[Step], whole: bool, dropped: bool
) -> None:
    event_bytes = limits.EVENT_BYTES if whole else 900  # a few chunks per part
    with new_world(milvus) as world, patch.object(limits, "EVENT_BYTES", event_bytes):
        for step in steps:
            world.take(step)
            if whole:
                world.assert_marks_are_honest()
        if dropped:
            world.drop_older_events()
            world.deliver((MILVUS, MINIO), world.newest(), 2)
        world.pipeline.run()
        world.assert_as_expected()
        world.deliver(
            (MILVUS, MINIO), [envelope for parts in world.written for envelope in parts], 3
        )  # everything again
        world.assert_as_expected()


def test_invariant_6_repeated_parts_in_one_batch_change_nothing(pipeline: Pipeline) -> None:
    with patch.object(limits, "EVENT_BYTES", 700):
        pipeline.upsert(document("a", "one", "two", "three"))
    events = pipeline.pending()
    for applier in pipeline.appliers():
        assert applier.apply([*events, *events[:1]]) == []
    pipeline.run()
    pipeline.assert_in_step()


HISTORY: tuple[Write | Delete, ...] = (  # each version changes something else; chunks, labels and files come back
    Write("", ("one", "two"), file=b"first"),
    Write("", ("one", "three"), "hr", file=b"second", extension="txt"),
    Write("", ("one", "two"), "hr"),
    Delete(""),
    Write("", ("three", "one", "three"), level="row", file=b"large" * 20_000),
)


@pytest.mark.parametrize("history", [HISTORY[:3], HISTORY[:4], HISTORY], ids=["changed", "deleted", "written-again"])
def test_invariant_7_any_older_version_may_be_skipped(
    milvus: MilvusClient, history: tuple[Write | Delete, ...]
) -> None:
    """One document per choice of the sinks that get each version before the next version is written."""
    choices: tuple[tuple[str, ...], ...] = ((), (MILVUS,), (MINIO,), (MILVUS, MINIO))
    paths = {f"doc-{number}": path for number, path in enumerate(product(choices, repeat=len(history) - 1))}
    with new_world(milvus) as world:
        for turn, step in enumerate(history):
            before = len(world.written)
            for doc_id in paths:
                world.take(replace(step, doc_id=doc_id))
            if turn == len(history) - 1:
                break
            for sink in (MILVUS, MINIO):
                events = [parts for parts in world.written[before:] if sink in paths[parts[0].doc_id][turn]]
                world.deliver([sink], [envelope for parts in events for envelope in parts], 500)
        world.drop_older_events()
        world.pipeline.run()
        world.assert_as_expected()
