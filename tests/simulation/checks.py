"""The invariants, looked at after every step; a violation raises AssertionError."""

from collections import Counter, defaultdict
from typing import Any

from consumers.subscription import Message
from schema import archive
from schema.events.events import DocumentUpserted, decode
from schema.object_store import layout
from schema.object_store.layout import SYSTEM_ID_KEY
from schema.sinks import MILVUS, MINIO
from tests.simulation.processes import ConsumerProcess, World
from tests.support.in_step import FIELDS, assert_in_step
from tests.support.memory_kafka import Transaction

_STATES = """
SELECT doc_id, d.version, history_id, history_base, d.status, deleted_at IS NOT NULL, sink, applied_version, state
FROM documents d JOIN sink_states USING (doc_id)
"""
_CHUNKS = """
SELECT chunk_id, doc_id, content_hash, coalesce(business_tag, ''), coalesce(oss_key, ''),
       vector_level, modal_type, coalesce(associate_id, ''), milvus_synced
FROM chunks JOIN documents USING (doc_id)
"""
_VECTORS = "SELECT chunk_id, content_hash, vector_version FROM chunks WHERE doc_id = ?"
_FILES = "SELECT object_key, sha256 FROM document_files WHERE doc_id = ? AND removed_in_version IS NULL"


class Checks:
    """`lost` are documents of which commits were lost; their stores are compared at the end only."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.consumers: list[ConsumerProcess] = []
        self.lost: set[str] = set()
        self.may_refuse = False  # after a fault that lets a sink refuse an event which a later one or a refill replaces
        self.absent: set[tuple[str, str]] = set()  # sinks and documents, when failovers came
        self.part_events = self.base_events = 0  # later parts, and relabels that build on another version
        self._waiting: set[str] = set()  # event ids in the outbox
        self._published: Counter[tuple[str, str]] = Counter()  # (event id, epoch of its claim)
        self._event_ids: set[str] = set()  # published
        self._visible: set[str] = set()  # event ids that readers have seen
        self._last: dict[tuple[str, str, str], tuple[int, int]] = {}  # (document, epoch, history): version and part
        self._shown: dict[str, dict[int, frozenset[str]]] = defaultdict(dict)  # chunk ids by version, of living ones
        self._base: dict[str, int] = {}  # the version that Milvus is known to show, or newer ones
        self._were_absent: set[tuple[str, str]] = set()  # sinks and documents, at the last look
        self._seen = (-1, -1, -1)
        world.broker.on_commit = self._check_commit
        world.broker.on_message = self._check_order

    def after_step(self) -> None:
        world = self._world
        seen = (world.database.raw.total_changes, world.milvus.changes, world.objects.changes)
        if seen == self._seen:
            return
        if seen[0] != self._seen[0]:
            self._check_outbox()
        self._seen = seen
        self._check_marks()

    def before_failover(self) -> dict[str, Any]:
        self.absent |= set(self._world.database.rows("SELECT sink, doc_id FROM sink_states WHERE state = 'absent'"))
        return self._read_documents()

    def after_failover(self, before: dict[str, Any]) -> int:
        """Returns how many documents have lost commits."""
        now = self._read_documents()
        lost = {doc_id for doc_id in before if before[doc_id] != now.get(doc_id)}
        self.lost |= lost | {doc_id for _, doc_id in self.absent}
        for doc_id in lost:
            self._shown.pop(doc_id, None)
            self._base.pop(doc_id, None)
        self._waiting = {event_id for (event_id,) in self._world.database.rows("SELECT event_id FROM outbox")}
        self._were_absent.clear()
        self._seen = (-1, -1, -1)
        return len(lost)

    def _read_documents(self) -> dict[str, Any]:
        return {
            doc_id: rest
            for doc_id, *rest in self._world.database.rows("SELECT doc_id, version, history_id FROM documents")
        }

    # The topic: invariants 3, 4 and 5

    def _check_commit(self, transaction: Transaction) -> None:
        for envelope in transaction.messages:
            epoch = envelope.headers["ce_time"]
            self._published[envelope.event_id, epoch] += 1
            self._event_ids.add(envelope.event_id)
            assert self._published[envelope.event_id, epoch] == 1, (
                f"invariant 5: version {envelope.version} of {envelope.doc_id} is in the topic twice"
            )

    def _check_order(self, message: Message) -> None:
        if message.envelope.event_id in self._visible:
            return  # published again after a failover that lost the settle: consumers know it
        self._visible.add(message.envelope.event_id)
        event = decode(message.envelope)
        self.part_events += event.part > 1
        self.base_events += isinstance(event, DocumentUpserted) and event.builds_on is not None
        epoch = str(message.envelope.headers["ce_time"])
        key = (event.doc_id, epoch, event.history_id)
        place = (event.version, event.part)
        last = self._last.get(key, (0, 0))
        assert place > last, f"invariant 3: {event.doc_id} {place} comes after {last} in the topic"
        self._last[key] = place

    def _check_outbox(self) -> None:
        waiting = {event_id for (event_id,) in self._world.database.rows("SELECT event_id FROM outbox")}
        gone = self._waiting - waiting - self._event_ids
        if gone:
            gone -= {event_id for (event_id,) in self._world.database.rows("SELECT event_id FROM outbox_dead_letters")}
        assert not gone, f"invariant 4: {len(gone)} rows left the outbox without being published"
        self._waiting = waiting

    # The sinks: invariants 8, 9 and 10

    def _check_marks(self) -> None:
        world = self._world
        chunks: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for row in world.database.rows(_CHUNKS):
            chunks[row[1]].append(row)
        rows: dict[str, dict[str, tuple[Any, ...]]] = defaultdict(dict)
        for held_row in (world.milvus.rows or {}).values():
            rows[held_row["doc_id"]][held_row["chunk_id"]] = tuple(held_row[name] for name in FIELDS)
        held: Counter[str] = Counter()
        documents: dict[str, tuple[int, str]] = {}
        for doc_id, version, history_id, base, status, is_deleted, sink, applied, state in world.database.rows(_STATES):
            is_given = applied <= base or (doc_id, applied, history_id) in world.given[sink]
            assert is_given, f"invariant 8: {sink} never got the marked version {applied} of {doc_id}"
            was_refilled = (sink, doc_id) in self._were_absent and state != "absent"
            assert not was_refilled or applied == version, f"invariant 8: a refill of {doc_id} marked an older version"
            self._note_absent(sink, doc_id, state)
            documents[doc_id] = (version, status)
            is_held = state == "applied" and applied == version
            held[doc_id] += is_held
            if sink == MILVUS:
                self._note_shown(doc_id, version, is_deleted, applied, state, chunks[doc_id])
            if doc_id in self.lost or self._is_disturbed(sink, doc_id, version, history_id):
                continue
            if sink == MINIO:
                if is_held:
                    self._check_objects(doc_id, is_deleted=is_deleted)
            elif world.milvus.rows is not None:
                self._check_rows(doc_id, chunks[doc_id], rows[doc_id], is_held=is_held)
        for doc_id, (version, status) in documents.items():
            assert status != "completed" or held[doc_id] == 2, (
                f"invariant 8: {doc_id} is completed, but a sink lacks version {version}"
            )

    def _check_rows(
        self, doc_id: str, chunks: list[tuple[Any, ...]], rows: dict[str, tuple[Any, ...]], *, is_held: bool
    ) -> None:
        wanted = {row[0]: row[:-1] for row in chunks}
        if is_held:
            assert rows == wanted, f"invariants 8 and 9: Milvus differs from the marked version of {doc_id}"
        for row in chunks:
            assert not row[-1] or rows.get(row[0]) == row[:-1], f"invariant 8: a chunk of {doc_id} is wrongly marked"
        base = self._base.get(doc_id)
        if base is not None and not self._is_overwritten(doc_id, base):
            versions = [shown for version, shown in self._shown[doc_id].items() if version >= base]
            assert any(shown <= rows.keys() for shown in versions), f"invariant 10: {doc_id} vanished from Milvus"

    def _check_objects(self, doc_id: str, *, is_deleted: bool) -> None:
        assert not self.lacks(doc_id), f"invariant 8: the object store lacks files or vectors of {doc_id}"
        if is_deleted:
            found = [key for key in self._world.objects.objects or {} if layout.is_key_of(doc_id, key)]
            assert not found, f"invariant 9: {found} of the deleted document {doc_id}"

    def lacks(self, doc_id: str) -> bool:
        """Whether the object store lacks a file or the vector of a chunk."""
        rows, objects = self._world.database.rows, self._world.objects
        if any(objects.sha256(key) != sha256 for key, sha256 in rows(_FILES, doc_id)):
            return True
        wanted = {chunk_id: archive.Wanted(digest, version) for chunk_id, digest, version in rows(_VECTORS, doc_id)}
        return {row.chunk_id for row in archive.read_vectors(objects, doc_id, wanted)} != wanted.keys()

    def _note_absent(self, sink: str, doc_id: str, state: str) -> None:
        if state == "absent":
            self._were_absent.add((sink, doc_id))
        else:
            self._were_absent.discard((sink, doc_id))

    def _note_shown(
        self, doc_id: str, version: int, is_deleted: bool, applied: int, state: str, chunks: list[tuple[Any, ...]]
    ) -> None:
        if is_deleted or state == "absent" or self._world.milvus.rows is None:
            self._base.pop(doc_id, None)
            self._shown.pop(doc_id, None)
            return
        self._shown[doc_id][version] = frozenset(row[0] for row in chunks)
        if applied in self._shown[doc_id]:
            self._base[doc_id] = applied

    def _is_disturbed(self, sink: str, doc_id: str, version: int, history_id: str) -> bool:
        """Whether a consumer has given the sink another version, and has not marked that yet."""
        return any(
            given[0] == doc_id and (given[1], history) != (version, history_id)
            for one in self.consumers
            if one.sink_name == sink and not one.is_dead
            for given, history in one.given.items()
        )

    def _is_overwritten(self, doc_id: str, base: int) -> bool:
        """Whether a late consumer has given Milvus an older version."""
        return any(
            given[0] == doc_id and given[1] < base
            for one in self.consumers
            if one.sink_name == MILVUS and not one.is_dead
            for given in one.given
        )

    # When all is quiet

    def at_the_end(self) -> None:
        """Every store equals the database."""
        world = self._world
        rows = list((world.milvus.rows or {}).values())
        objects = {key: content for key, content in (world.objects.objects or {}).items() if key != SYSTEM_ID_KEY}

        def sql(statement: str) -> list[tuple[Any, ...]]:  # documents of dead letters are written again
            return [] if "outbox_dead_letters" in statement else world.database.rows(statement)

        assert_in_step(sql, rows, objects)
        if not self.may_refuse:
            assert not world.dead_letters.stored, "an event became a dead letter"
