"""Defects that the simulation must find: each one changes the shipped code by one rule.

A mutant whose target is renamed or removed fails with an AttributeError, so that none of them rots silently.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import msgspec
from sqlalchemy import Connection, update

import consumers.refill
from consumers import completion, selection
from consumers.applier import Applier, _Applied
from consumers.kafka import KafkaConsumer
from consumers.marks import Known
from consumers.milvus.sink import MilvusSink
from consumers.removals import is_empty
from consumers.sink import Change
from relays import offset_metadata
from relays.claim import Claimer
from relays.kafka import KafkaRelay
from relays.lanes import LaneStates
from relays.outbox import _HISTORY, SqlOutbox, _delete_exactly, _ids_condition
from relays.ports import Named, OutboxRow, Outcome
from relays.publisher import KafkaPublisher
from relays.settle import Settler
from schema.database import history
from schema.database.connection import reading
from schema.database.history import Standing
from schema.database.tables import LANES, documents
from schema.events.events import DocumentUpserted
from schema.failures import DeadLetter

Mutant = Callable[[], AbstractContextManager[Any]]
MUTANTS: dict[str, Mutant] = {}


def _mutant(target: Any, attribute: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function that takes the place of `target.attribute`; its name is that of the mutant."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        MUTANTS[function.__name__] = lambda: patch.object(target, attribute, function)
        return function

    return register


_publish, _claim, _apply_sink = KafkaRelay.publish, Claimer.claim, MilvusSink.apply
_produce, _apply_and_mark, _apply_batch = KafkaPublisher._produce, Applier._apply_and_mark, Applier.apply
_apply_loop, _split = KafkaConsumer.apply, Claimer._drop_ahead


# The relay


@_mutant(KafkaRelay, "publish")
def settle_before_commit(self: KafkaRelay, rows: Sequence[OutboxRow]) -> Outcome:
    self._settler.start(rows)
    self._settler.finish()
    return _publish(self, rows)


@_mutant(offset_metadata, "encode_by_lane")
def offsets_without_metadata(rows: Sequence[OutboxRow]) -> dict[int, str]:
    return dict.fromkeys((row.lane for row in rows), "")


@_mutant(Settler, "settle_named")
def takeover_without_settle(_self: Settler, _named: Sequence[Named]) -> int:
    return 0


@_mutant(LaneStates, "doubt")
def transaction_in_doubt_is_forgotten(_self: LaneStates) -> None:
    pass


@_mutant(Claimer, "drop")
def rows_claimed_ahead_are_kept(_self: Claimer) -> None:
    pass


@_mutant(Claimer, "claim")
def claim_with_a_cursor(self: Any, settling: Sequence[OutboxRow]) -> list[OutboxRow]:
    rows = [row for row in _claim(self, settling) if row.id > getattr(self, "cursor", 0)]
    self.cursor = max([getattr(self, "cursor", 0), *(row.id for row in rows)])
    return rows


@_mutant(SqlOutbox, "settle")
def settle_without_the_shared_lock(self: SqlOutbox, rows: Sequence[OutboxRow], dead: Sequence[DeadLetter] = ()) -> None:
    with reading(self._engine) as connection:
        history_id = connection.execute(_HISTORY).scalar()
    with self._engine.begin() as connection:
        if all(row.history_id == history_id for row in rows):
            connection.exec_driver_sql(f"DELETE FROM outbox WHERE {_ids_condition(row.id for row in rows)}")
        else:
            _delete_exactly(connection, [(row.id, row.envelope.event_id) for row in rows])


@_mutant(SqlOutbox, "settle")
def settle_by_id_in_any_history(self: SqlOutbox, rows: Sequence[OutboxRow], dead: Sequence[DeadLetter] = ()) -> None:
    with self._engine.begin() as connection:
        connection.exec_driver_sql(f"DELETE FROM outbox WHERE {_ids_condition(row.id for row in rows)}")


@_mutant(offset_metadata, "match")
def takeover_by_id_alone(published: Collection[Named], found: Collection[tuple[int, str]]) -> list[tuple[int, str]]:
    return list(found)


@_mutant(KafkaPublisher, "_produce")
def partition_is_not_the_lane(self: KafkaPublisher, producer: Any, row: OutboxRow, on_delivery: Any) -> None:
    partition = (row.lane + row.envelope.version) % LANES
    _produce(self, producer, msgspec.structs.replace(row, lane=partition), on_delivery)


# The consumers


def _apply_later(self: Any, changes: Sequence[Change], *_: Any) -> _Applied:
    self.later += [change for change in changes if not is_empty(change)]
    return _Applied()


def _mark_then_apply(self: Any, *args: Any) -> Any:
    self.later = []
    result = _apply_and_mark(self, *args)
    if self.later:
        self._sink.apply(self.later)
    return result


class _MarkBeforeApply:
    def __enter__(self) -> None:
        self._patches: list[Any] = [
            patch.object(Applier, "_apply", _apply_later),
            patch.object(Applier, "_apply_and_mark", _mark_then_apply),
        ]
        for one in self._patches:
            one.start()

    def __exit__(self, *_: object) -> None:
        for one in self._patches:
            one.stop()


MUTANTS["mark_before_apply"] = _MarkBeforeApply


@_mutant(KafkaConsumer, "apply")
def offsets_before_apply(self: KafkaConsumer) -> None:
    self._subscription.store_offsets(self._batch.finish(self._batch.select(also_held=True)))
    self._subscription.commit()
    _apply_loop(self)


@_mutant(MilvusSink, "apply")
def delete_before_write(self: MilvusSink, changes: Sequence[Change]) -> None:
    events = [event for change in changes for event in change.events]
    written = {chunk.chunk_id for event in events if isinstance(event, DocumentUpserted) for chunk in event.chunks}
    self._delete([one for event in events for one in event.tombstones if one not in written])
    _apply_sink(self, changes)


@_mutant(MilvusSink, "_find_others")
def refill_without_replace(_self: MilvusSink, _doc_ids: Sequence[str], _listed: Collection[str]) -> list[str]:
    return []


@_mutant(history, "judge")
def no_history_in_the_check(
    _event_history: str, event_version: int, *, history_id: str, history_base: int, version: int
) -> Standing:
    return Standing.VALID if event_version <= version else Standing.LOST


@_mutant(Known, "count_parts")
def last_part_completes(_self: Known, _version: int, events: Iterable[Any]) -> int:
    return max(int(event.part) for event in events)


@_mutant(selection, "_find_missing_base")
def base_is_skipped(_parts: Sequence[Any], _document: Known) -> int | None:
    return None


@_mutant(Known, "is_newer_than")
def late_version_is_not_noticed(_self: Known, _version: int) -> bool:
    return False


@_mutant(Applier, "apply")
def written_versions_are_forgotten(self: Applier, envelopes: Sequence[Any]) -> list[DeadLetter]:
    self._written.clear()
    return _apply_batch(self, envelopes)


@_mutant(consumers.refill, "_is_unchanged")
def refill_of_an_older_version_is_marked(_now: Known, _stored: Any) -> bool:
    return True


@_mutant(completion, "complete_documents")
def one_sink_completes(connection: Connection, doc_ids: Sequence[str]) -> None:
    connection.execute(update(documents).where(documents.c.doc_id.in_(doc_ids)).values(status="completed"))
