"""What the group of relays and their transactions owe a relay."""

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Protocol

from relays.ports import Fenced, LaneOffset, Lanes, OutboxRow, Outcome, Published, Publisher, Refused, Undone
from schema.database.tables import LANES
from schema.events.events import Envelope
from tests.support.waiting import wait_for

ALL_LANES = set(range(LANES))
TOO_LARGE = b"x" * 3_000_000


class RelayKafka(Protocol):
    """One Kafka. It refuses an event with the payload TOO_LARGE."""

    def lanes(self) -> Lanes: ...

    def publisher(self) -> Publisher: ...

    def read_event_ids(self) -> list[str]:
        """What a `read_committed` reader sees, in order for one document."""

    def open_transaction(self, lane: int, member: Lanes) -> AbstractContextManager[None]:
        """A transaction of this member that holds an event and an offset of the lane; aborted in the end."""


def row(number: int, lane: int = 0, payload: bytes = b"x") -> OutboxRow:
    envelope = Envelope(f"event-{number}", "type", "d", number, "content/type", payload, {})
    return OutboxRow(number, lane, "2026-11-21T00:00:00+00:00", envelope, "history")


def poll_until(condition: Callable[[], bool], *members: Lanes) -> None:
    def look() -> bool:
        for member in members:
            member.poll(0.05)
        return condition()

    wait_for(look, "the group to change")


def read_committed(lanes: Lanes, *, without: AbstractSet[int] = frozenset()) -> dict[int, str]:
    """The metadata of all arriving lanes but some."""
    found: dict[int, str] = {}

    def look() -> bool:
        lanes.poll(0)
        found.update(lanes.read_committed())
        return found.keys() >= lanes.arriving - without

    wait_for(look, "committed offsets")
    return found


def take_over(lanes: Lanes, *, without: AbstractSet[int] = frozenset()) -> dict[int, str]:
    """Own all arriving lanes but some; returns their metadata."""
    committed = read_committed(lanes, without=without)
    lanes.take_over(committed)
    return committed


def commit(lanes: Lanes, publisher: Publisher, rows: Sequence[OutboxRow], metadata: str) -> Outcome:
    """Publish rows of one lane."""
    membership = lanes.membership()
    assert membership is not None
    assert publisher.send(rows) is None
    offsets = lanes.next_offsets({rows[0].lane: metadata})
    outcome = publisher.commit(offsets, membership)
    if isinstance(outcome, Published):
        lanes.advance(offsets)
    return outcome


@contextmanager
def member(kafka: RelayKafka, *others: Lanes, share: int = LANES) -> Iterator[Lanes]:
    """A member of the group that has `share` lanes, none of them owned."""
    lanes = kafka.lanes()
    lanes.join()
    try:
        poll_until(lambda: len(lanes.arriving) == share, lanes, *others)
        yield lanes
    finally:
        lanes.close()


@contextmanager
def publishing(kafka: RelayKafka) -> Iterator[Publisher]:
    publisher = kafka.publisher()
    try:
        yield publisher
    finally:
        publisher.close()


class RelayKafkaContract:
    """Derive a class that has a fixture `kafka`: a RelayKafka whose group is empty."""

    def test_assigned_lane_is_owned_after_takeover(self, kafka: RelayKafka) -> None:
        with member(kafka) as lanes:
            assert (lanes.owned, lanes.arriving) == (set(), ALL_LANES)
            assert lanes.arrivals > 0
            assert take_over(lanes) == dict.fromkeys(ALL_LANES, "")
            assert (lanes.owned, lanes.arriving) == (ALL_LANES, set())

    def test_committed_transaction_is_visible_and_names_its_rows(self, kafka: RelayKafka) -> None:
        with publishing(kafka) as publisher:
            with member(kafka) as lanes:
                take_over(lanes)
                assert commit(lanes, publisher, [row(1), row(2)], "first") == Published()
                assert commit(lanes, publisher, [row(3)], "second") == Published()
                assert lanes.next_offsets({0: "", 1: ""}) == [LaneOffset(0, 3, ""), LaneOffset(1, 1, "")]
            assert kafka.read_event_ids() == ["event-1", "event-2", "event-3"]
            with member(kafka) as lanes:
                assert take_over(lanes)[0] == "second"
                assert lanes.next_offsets({0: ""}) == [LaneOffset(0, 3, "")]

    def test_open_transaction_is_invisible_after_close(self, kafka: RelayKafka) -> None:
        with publishing(kafka) as publisher:
            assert publisher.send([row(1)]) is None
        assert kafka.read_event_ids() == []

    def test_aborted_transaction_is_invisible_and_delays_nothing(self, kafka: RelayKafka) -> None:
        with member(kafka) as lanes, publishing(kafka) as publisher:
            take_over(lanes)
            assert publisher.send([row(1)]) is None
            assert publisher.abort("later") == Undone("later", in_doubt=False)
            assert commit(lanes, publisher, [row(2)], "second") == Published()
        assert kafka.read_event_ids() == ["event-2"]

    def test_lane_in_an_open_transaction_delays_no_other_takeover(self, kafka: RelayKafka) -> None:
        with member(kafka) as lanes, publishing(kafka) as publisher:
            take_over(lanes)
            assert commit(lanes, publisher, [row(1, lane=3)], "known") == Published()
            with kafka.open_transaction(3, lanes):
                lanes.doubt()
                assert take_over(lanes, without={3}) == dict.fromkeys(ALL_LANES - {3}, "")
                assert (lanes.owned, lanes.arriving) == (ALL_LANES - {3}, {3})
            assert take_over(lanes) == {3: "known"}
            assert lanes.owned == ALL_LANES

    def test_open_transaction_hides_events_of_its_own_lane_only(self, kafka: RelayKafka) -> None:
        with member(kafka) as lanes, publishing(kafka) as publisher:
            take_over(lanes)
            with kafka.open_transaction(3, lanes):
                assert commit(lanes, publisher, [row(1, lane=3), row(2, lane=4)], "") == Published()
                assert kafka.read_event_ids() == ["event-2"]
            wait_for(lambda: sorted(kafka.read_event_ids()) == ["event-1", "event-2"], "the end of the transaction")

    def test_two_members_share_the_lanes(self, kafka: RelayKafka) -> None:
        with member(kafka) as first:
            take_over(first)
            arrivals = first.arrivals
            with member(kafka, first, share=LANES // 2) as second:
                assert first.owned | second.arriving == ALL_LANES
                assert first.owned.isdisjoint(second.arriving)
                assert first.arrivals == arrivals, "lanes only left"
            poll_until(lambda: len(first.arriving) == LANES // 2, first)
            assert first.arrivals > arrivals

    def test_lost_membership_fences_the_transaction(self, kafka: RelayKafka) -> None:
        with member(kafka) as first, publishing(kafka) as publisher:
            take_over(first)
            membership = first.membership()
            assert membership is not None
            assert publisher.send([row(1)]) is None
            offsets = first.next_offsets({0: "lost"})
            with member(kafka, first, share=LANES // 2) as second:
                outcome = publisher.commit(offsets, membership)
                assert isinstance(outcome, Fenced)
                assert outcome.in_doubt
                first.doubt()
                metadata = take_over(first) | take_over(second)
                assert metadata == dict.fromkeys(ALL_LANES, "")
                assert commit(first, publisher, [row(2, min(first.owned))], "") == Published()
        assert kafka.read_event_ids() == ["event-2"]

    def test_doubt_rereads_committed_offsets(self, kafka: RelayKafka) -> None:
        with member(kafka) as lanes, publishing(kafka) as publisher:
            take_over(lanes)
            membership, offsets = lanes.membership(), lanes.next_offsets({5: "unknown"})
            assert membership is not None
            assert publisher.send([row(1, lane=5)]) is None
            assert publisher.commit(offsets, membership) == Published()
            arrivals = lanes.arrivals
            lanes.doubt()
            assert (lanes.owned, lanes.arriving) == (set(), ALL_LANES)
            assert lanes.arrivals > arrivals
            assert not lanes.has_lost(ALL_LANES)
            assert take_over(lanes)[5] == "unknown"
            assert lanes.next_offsets({5: ""}) == [LaneOffset(5, 2, "")]

    def test_lane_that_came_back_is_not_taken_over_on_old_offsets(self, kafka: RelayKafka) -> None:
        with member(kafka) as first:
            committed = read_committed(first)
            with member(kafka, first, share=LANES // 2) as second:
                moved = set(second.arriving)
                assert first.has_lost(moved)
            poll_until(lambda: len(first.arriving) == LANES, first)
            first.take_over(committed)
            assert (first.owned, first.arriving) == (ALL_LANES - moved, moved)
            take_over(first)
            assert first.owned == ALL_LANES

    def test_refused_event_makes_the_batch_invisible(self, kafka: RelayKafka) -> None:
        with member(kafka) as lanes, publishing(kafka) as publisher:
            take_over(lanes)
            membership = lanes.membership()
            assert membership is not None
            outcome: Outcome | None = publisher.send([row(1), row(2, payload=TOO_LARGE)])
            if outcome is None:
                outcome = publisher.commit(lanes.next_offsets({0: "refused"}), membership)
            assert isinstance(outcome, Refused)
            if outcome.in_doubt:
                lanes.doubt()
                assert take_over(lanes)[0] == ""
            assert commit(lanes, publisher, [row(1)], "taken") == Published()
        assert kafka.read_event_ids() == ["event-1"]

    def test_member_leaves_at_once(self, kafka: RelayKafka) -> None:
        with ExitStack() as stack:
            first = stack.enter_context(member(kafka))
            with member(kafka, first, share=LANES // 2):
                pass
            poll_until(lambda: first.arriving == ALL_LANES, first)
