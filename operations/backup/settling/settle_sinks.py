"""What the sinks hold of the history that a restore loses: the topic tells, or every document is refilled."""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import select

from consumers.refill import mark_all_absent
from operations import history, sinks
from operations.backup.manifest import Manifest
from operations.topic import TopicReader
from operations.wiring import System
from schema.database import history as stored
from schema.database.connection import reading
from schema.database.tables import histories

_NO_TOPIC = "no Kafka is set, so no topic tells what was lost"


@dataclass(frozen=True)
class Settled:
    """`everything_because` is empty if the topic told what to refill. `report` is None without a check."""

    everything_because: str
    report: history.Report | None


def settle_sinks(system: System, manifest: Manifest, advance: Callable[[int], None] = lambda _: None) -> Settled:
    """Make absent what sinks may hold of lost versions. Call it in the new history, before anybody can write.

    May be repeated. Raises Retryable.
    """
    because, report = _check_topic(system, manifest, advance)
    if because:
        for sink in sinks.names(system):
            mark_all_absent(system.engine, sink, f"restored the backup of {manifest.timestamp}: {because}")
        with system.engine.begin() as connection:
            stored.note_checked(connection, stored.read_identity(connection).history_id)
    return Settled(because, report)


def _check_topic(
    system: System, manifest: Manifest, advance: Callable[[int], None]
) -> tuple[str, history.Report | None]:
    kafka = system.settings.kafka
    if kafka is None:
        return _NO_TOPIC, None
    from operations.backup.settling.topic_position import find_loss, read_topic_id

    reader = TopicReader(system.names, kafka)
    topic_id = read_topic_id(kafka, system.names.documents_topic)
    because = find_loss(manifest.topic, topic_id, {} if topic_id is None else reader.read_bounds())
    if topic_id is None:
        return because, None
    starts = None
    if not because and manifest.topic is not None and not _has_other_unchecked(system):
        starts = manifest.topic.starts
    return because, history.check(system.engine, reader, starts=starts, advance=advance)


def _has_other_unchecked(system: System) -> bool:
    """Whether a history before the restore was not checked when the backup was made: then the whole topic is read."""
    unchecked = select(histories.c.history_id).where(
        histories.c.checked_at.is_(None), histories.c.history_id != system.identity.history_id
    )
    with reading(system.engine) as connection:
        return connection.execute(unchecked.limit(1)).first() is not None
