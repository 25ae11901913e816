"""What an erase cannot reach, and how long it stays there, as far as it is known."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import select, text

from operations.sinks import names as sink_names
from operations.wiring import System
from producer.processing.embed.cache import MOST_AGE
from schema.database.connection import reading
from schema.database.tables import embedding_cache

_HOUR_MS = 3_600_000
UNKNOWN = "unknown: as long as you keep them"


@dataclass(frozen=True, slots=True)
class Limit:
    place: str
    how_long: str


def find_limits(system: System, lagging: Sequence[str] = ()) -> list[Limit]:
    """Ask the servers that the settings name; one that does not answer is listed as unknown."""
    return [
        *(Limit(f"sink {name}", "until its refill, which `rag-outbox run` or its consumer does") for name in lagging),
        *_of_database(system),
        *_of_embedding_cache(system),
        *_of_kafka(system),
        Limit("staged files in temp/ of the object store", "at most 24 hours and the hour until the next sweep"),
        Limit("older versions of objects, if the bucket is versioned", "until a rule of the bucket removes them"),
        Limit("Milvus' own segments", "until its next compaction"),
        Limit("backups, replicas and exports", UNKNOWN),
    ]


def _of_database(system: System) -> Iterator[Limit]:
    if system.engine.dialect.name != "mysql":
        yield Limit("free pages of the SQLite file", "until SQLite reuses them, or VACUUM")
        return
    with reading(system.engine) as connection:
        has_log, seconds = connection.execute(text("SELECT @@log_bin, @@binlog_expire_logs_seconds")).one()
    if has_log:
        how_long = "for ever (binlog_expire_logs_seconds=0)" if not seconds else f"{seconds / 86_400:.1f} days"
        yield Limit("MySQL's binary log", how_long)


def _of_embedding_cache(system: System) -> Iterator[Limit]:
    """Its rows name no document."""
    with reading(system.engine) as connection:
        if connection.execute(select(embedding_cache.c.cache_key).limit(1)).first() is not None:
            days = f"at least {MOST_AGE.days} days after their last use; DELETE FROM embedding_cache removes all"
            yield Limit("cached vectors of its texts, without the texts", days)


def _of_kafka(system: System) -> Iterator[Limit]:
    kafka = system.settings.kafka
    if kafka is None:
        return
    from confluent_kafka import KafkaException

    from schema.kafka.topics import read_retention_ms

    names = system.names
    for topic in (names.documents_topic, *(names.dead_letters_topic(sink) for sink in sink_names(system))):
        try:
            kept_ms = read_retention_ms(kafka, topic)
        except KafkaException as error:
            yield Limit(f"Kafka topic {topic}", f"unknown: {error.args[0].str()}")
            continue
        how_long = "for ever (retention.ms=-1)" if kept_ms < 0 else f"{kept_ms / 24 / _HOUR_MS:.1f} days"
        yield Limit(f"Kafka topic {topic}", how_long)
