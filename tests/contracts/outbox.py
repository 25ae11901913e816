"""What every outbox owes a relay."""

from collections.abc import Callable, Collection

import pytest

from relays.ports import Outbox, OutboxRow
from schema.database.tables import LANES
from schema.failures import DeadLetter

MIB = 1024 * 1024
ALL_LANES = range(LANES)
Append = Callable[[str, int, bytes], None]  # document, version, payload
DeadLetters = Callable[[], list[tuple[str, int, bytes, str]]]  # document, version, payload, reason


def names(rows: Collection[OutboxRow]) -> list[tuple[str, int]]:
    return [(row.envelope.doc_id, row.envelope.version) for row in rows]


class EmbeddedOutboxContract:
    """For the relay in one process. Derive a class with fixtures `outbox`, `append` and `dead_letters`."""

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
        ids = [row.id for row in outbox.claim_oldest(10, MIB)]
        outbox.settle(ids[:2])
        outbox.settle(ids[:2])
        assert names(outbox.claim_oldest(10, MIB)) == [("d", 3)]

    def test_dead_letter_is_stored_once(self, outbox: Outbox, append: Append, dead_letters: DeadLetters) -> None:
        append("d", 1, b"payload")
        [row] = outbox.claim_oldest(10, MIB)
        for reason in ("first", "last"):
            outbox.settle([row.id], [(row.id, DeadLetter("relay", row.envelope, reason))])
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

    def test_event_ids_are_of_rows_that_still_exist(self, outbox: Outbox, append: Append) -> None:
        append("d", 1, b"")
        append("d", 2, b"")
        first, second = outbox.claim_lanes(ALL_LANES, [], 10, MIB)
        outbox.settle([first.id])
        assert outbox.read_event_ids([first.id, second.id]) == [(second.id, second.envelope.event_id)]

    @pytest.mark.parametrize("payload", [b"", b"pay\n \x00load", bytes(range(256))])
    def test_claim_returns_any_payload(self, outbox: Outbox, append: Append, payload: bytes) -> None:
        append("d 😀", 7, payload)
        [row] = outbox.claim_lanes(ALL_LANES, [], 10, MIB)
        assert (row.envelope.doc_id, row.envelope.version, row.envelope.payload) == ("d 😀", 7, payload)
        assert row.created_at.endswith("+00:00")
