"""What every outbox owes a relay."""

from collections.abc import Callable, Collection

import pytest

from relays.offset_metadata import checksum
from relays.ports import Outbox, OutboxRow
from schema.database.tables import LANES
from schema.failures import DeadLetter

MIB = 1024 * 1024
ALL_LANES = range(LANES)
FailOver = Callable[[], None]  # the outbox is empty, uses its ids again, and is in a new history
Append = Callable[[str, int, bytes], None]  # document, version, payload
DeadLetters = Callable[[], list[tuple[str, int, bytes, str]]]  # document, version, payload, reason


def names(rows: Collection[OutboxRow]) -> list[tuple[str, int]]:
    return [(row.envelope.doc_id, row.envelope.version) for row in rows]


class EmbeddedOutboxContract:
    """For the relay in one process. Derive a class with fixtures `outbox`, `append`, `dead_letters`, `fail_over`."""

    def test_claim_oldest_returns_rows_in_id_order(self, outbox: Outbox, append: Append) -> None:
        for version in (1, 2, 3):
            append("d", version, b"payload")
        rows = outbox.claim_oldest(10, MIB)
        assert names(rows) == [("d", 1), ("d", 2), ("d", 3)]
        assert [row.id for row in rows] == sorted(row.id for row in rows)
        assert rows[0].envelope.payload == b"payload"

    def test_claim_oldest_is_bounded_in_rows_and_bytes(self, outbox: Outbox, append: Append) -> None:
        for version in range(1, 6):
            append("d", version, b"x" * 1000)
        assert names(outbox.claim_oldest(2, MIB)) == [("d", 1), ("d", 2)]
        assert names(outbox.claim_oldest(10, 3500)) == [("d", 1), ("d", 2), ("d", 3)]
        assert names(outbox.claim_oldest(10, 1)) == [("d", 1)], "a larger row gets a batch of its own"

    def test_settled_rows_are_gone(self, outbox: Outbox, append: Append) -> None:
        for version in (1, 2, 3):
            append("d", version, b"")
        rows = outbox.claim_oldest(10, MIB)
        outbox.settle(rows[:2])
        outbox.settle(rows[:2])
        assert names(outbox.claim_oldest(10, MIB)) == [("d", 3)]

    def test_settle_in_a_new_history_keeps_rows_with_reused_ids(
        self, outbox: Outbox, append: Append, fail_over: FailOver
    ) -> None:
        append("lost", 1, b"")
        append("kept", 1, b"")
        lost, kept = outbox.claim_oldest(10, MIB)
        fail_over()
        append("new", 1, b"")
        append("kept", 1, b"")
        new, inherited = outbox.claim_oldest(10, MIB)
        assert (new.id, inherited.id, inherited.envelope.event_id) == (lost.id, kept.id, kept.envelope.event_id)
        assert new.history_id != lost.history_id
        outbox.settle([lost, kept])
        assert outbox.claim_oldest(10, MIB) == [new]
        outbox.settle([new])
        assert outbox.claim_oldest(10, MIB) == []

    def test_dead_letter_is_stored_once(self, outbox: Outbox, append: Append, dead_letters: DeadLetters) -> None:
        append("d", 1, b"payload")
        [row] = outbox.claim_oldest(10, MIB)
        for reason in ("first", "last"):
            outbox.settle([row], [DeadLetter("relay", row.envelope, reason)])
        assert outbox.claim_oldest(10, MIB) == []
        assert dead_letters() == [("d", 1, b"payload", "last")]


class OutboxContract(EmbeddedOutboxContract):
    """For the relay to Kafka."""

    def test_claim_skips_rows_in_flight(self, outbox: Outbox, append: Append) -> None:
        for version in range(1, 101):
            append("d", version, b"")
        first = outbox.claim_lanes(ALL_LANES, [], 30, MIB)
        assert names(first) == [("d", version) for version in range(1, 31)]
        single = [*first[:3], first[4]]  # no long run of ids
        second = outbox.claim_lanes(ALL_LANES, first, 30, MIB)
        assert names(second) == [("d", version) for version in range(31, 61)]
        assert names(outbox.claim_lanes(ALL_LANES, single, 2, MIB))[:2] == [("d", 4), ("d", 6)]

    def test_claim_is_bounded_per_lane_and_in_bytes(self, outbox: Outbox, append: Append) -> None:
        for version in range(1, 4):
            for number in range(20):
                append(f"d{number}", version, b"x" * 100)
        rows = outbox.claim_lanes(ALL_LANES, [], 2, MIB)
        assert len({row.lane for row in rows}) > 1
        for lane in {row.lane for row in rows}:
            assert len([row for row in rows if row.lane == lane]) == 2
        assert [row.id for row in rows] == sorted(row.id for row in rows)
        assert len(outbox.claim_lanes(ALL_LANES, [], 10, 550)) == 5

    def test_claim_reads_only_its_lanes(self, outbox: Outbox, append: Append) -> None:
        for number in range(50):
            append(f"d{number}", 1, b"")
        lanes = {row.envelope.doc_id: row.lane for row in outbox.claim_lanes(ALL_LANES, [], 100, MIB)}
        assert len(lanes) == 50
        lane = lanes["d0"]
        claimed = outbox.claim_lanes([lane], [], 100, MIB)
        assert {row.envelope.doc_id for row in claimed} == {doc_id for doc_id, one in lanes.items() if one == lane}
        assert outbox.claim_lanes([], [], 100, MIB) == []

    def test_named_rows_are_settled_if_they_still_exist(self, outbox: Outbox, append: Append) -> None:
        for version in (1, 2, 3):
            append("d", version, b"")
        first, second, third = outbox.claim_lanes(ALL_LANES, [], 10, MIB)
        outbox.settle([first])
        named = [(row.id, checksum(row.envelope.event_id)) for row in (first, second)]
        assert outbox.settle_named([*named, (third.id, checksum("another"))]) == 1
        assert outbox.claim_lanes(ALL_LANES, [], 10, MIB) == [third]

    @pytest.mark.parametrize("payload", [b"", b"pay\n \x00load", bytes(range(256))])
    def test_claim_returns_any_payload(self, outbox: Outbox, append: Append, payload: bytes) -> None:
        append("d 😀", 7, payload)
        [row] = outbox.claim_lanes(ALL_LANES, [], 10, MIB)
        assert (row.envelope.doc_id, row.envelope.version, row.envelope.payload) == ("d 😀", 7, payload)
        assert row.created_at.endswith("+00:00")
