"""The metrics of a relay."""

from collections.abc import Sequence
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from relays.ports import Fenced, Lanes, OutboxRow, Outcome, Published, Refused, Undone
from schema.metrics import DELAY_SECONDS, WORK_SECONDS, BatchHistogram

_SAMPLE_ROWS = 200  # of a batch whose ages are looked at: all of them would cost the relay 2 %
_OUTCOMES = {Published: "published", Refused: "refused", Undone: "undone", Fenced: "fenced"}


class RelayMetrics:
    """Counts what is committed; ages are between the clock of the database and the clock of this machine."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._published = Counter(
            "rag_outbox_relay_published_total", "Events in committed Kafka transactions.", registry=registry
        )
        self._published_bytes = Counter(
            "rag_outbox_relay_published_bytes_total", "Payload bytes of published events.", registry=registry
        )
        self._publish_seconds = BatchHistogram(
            "rag_outbox_relay_publish_seconds",
            "Seconds from the insert of an outbox row to the commit of its Kafka transaction.",
            DELAY_SECONDS,
            registry,
        )
        self._batches = Counter(
            "rag_outbox_relay_batches_total",
            "Kafka transactions by outcome: published, refused, undone or fenced.",
            ["outcome"],
            registry=registry,
        )
        self._batch_seconds = Histogram(
            "rag_outbox_relay_batch_seconds",
            "Seconds that a Kafka transaction took, whatever its outcome.",
            buckets=WORK_SECONDS,
            registry=registry,
        )
        self._fenced = Counter(
            "rag_outbox_relay_fenced_total",
            "Kafka transactions that were rejected because the relay had lost its lanes.",
            registry=registry,
        )
        self._recovered = Counter(
            "rag_outbox_relay_recovered_total",
            "Rows that an earlier owner of a lane had published, and that this relay settled when it took over.",
            registry=registry,
        )
        self._lanes_owned = Gauge(
            "rag_outbox_relay_lanes_owned", "Lanes that this relay publishes now.", registry=registry
        )
        self._lanes_arriving = Gauge(
            "rag_outbox_relay_lanes_arriving",
            "Lanes that are assigned to this relay and not taken over yet.",
            registry=registry,
        )
        self._dead_letters = Counter(
            "rag_outbox_dead_letters_total",
            "Events that became dead letters, by the stage that refused them.",
            ["stage"],
            registry=registry,
        )
        self._dead_letters.labels("relay")
        for outcome in _OUTCOMES.values():
            self._batches.labels(outcome)

    def watch(self, lanes: Lanes) -> None:
        """Read the lanes at every scrape."""
        self._lanes_owned.set_function(lambda: len(lanes.owned))
        self._lanes_arriving.set_function(lambda: len(lanes.arriving))

    def note_batch(self, rows: Sequence[OutboxRow], outcome: Outcome, seconds: float) -> None:
        self._batches.labels(_OUTCOMES[type(outcome)]).inc()
        self._batch_seconds.observe(seconds)
        match outcome:
            case Published():
                self._published.inc(len(rows))
                self._published_bytes.inc(sum(len(row.envelope.payload) for row in rows))
                now, sample = datetime.now(UTC), rows[:: len(rows) // _SAMPLE_ROWS + 1]
                ages = ((now - datetime.fromisoformat(row.created_at)).total_seconds() for row in sample)
                self._publish_seconds.observe_many((max(age, 0.0) for age in ages), len(rows))
            case Fenced():
                self._fenced.inc()
            case Refused() if len(rows) == 1:
                self._dead_letters.labels("relay").inc()

    def note_recovered(self, rows: int) -> None:
        self._recovered.inc(rows)
