"""What a subscription owes the consumer loop, in memory and on Kafka alike."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from consumers.subscription import Headers, Message, OnGap, Partition, Subscription
from schema.failures import Retryable
from tests.support.waiting import wait_for


class Group(Protocol):
    """A topic with more than one partition, partitioned by key, and one group on it."""

    def append(self, doc_id: str, value: bytes = b"", headers: Headers = ()) -> object: ...

    def subscription(self, on_gap: OnGap = ...) -> Subscription: ...

    def remove_all(self) -> None:
        """Remove all messages, as the retention does."""


@dataclass
class Member:
    """A subscription that has joined; it commits in `on_revoke` what `finished` holds."""

    subscription: Subscription
    received: list[Message] = field(default_factory=list)
    finished: list[Message] = field(default_factory=list)
    revoked: set[Partition] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.subscription.join(on_revoke=self._release, on_lost=lambda _: None)

    def poll(self, rows: int = 100) -> None:
        self.received += self.subscription.poll(rows, 0.05)

    def values(self) -> list[bytes | None]:
        return [message.value for message in self.received]

    def _release(self, partitions: Collection[Partition]) -> None:
        self.revoked |= set(partitions)
        self.subscription.store_offsets([one for one in self.finished if one.partition in partitions])
        self.subscription.commit()


def poll_until(done: Callable[[], bool], what: str, *members: Member) -> None:
    def look() -> bool:
        for member in members:
            member.poll()
        return done()

    wait_for(look, what)


def receive(count: int, *members: Member) -> None:
    """Poll until the members have received `count` messages in all."""
    poll_until(lambda: sum(len(member.received) for member in members) >= count, f"{count} messages", *members)


class SubscriptionContract:
    """Derive a class for a module that has a fixture `group`: a Group without messages and members."""

    def test_message_arrives_with_key_value_headers_and_origin(self, group: Group) -> None:
        member = Member(group.subscription())
        headers = [("ce_id", b"e1"), ("ce_type", b"t"), ("ce_sequence", b"7"), ("content-type", b"application/json")]
        group.append("d1", b"{}", headers)
        receive(1, member)
        [message] = member.received
        assert (message.key, message.value, list(message.headers), message.offset) == (b"d1", b"{}", headers, 0)
        assert message.origin == f"{message.partition[0]}/{message.partition[1]}/0"
        envelope = message.envelope
        assert (envelope.event_id, envelope.event_type, envelope.version) == ("e1", "t", 7)
        assert (envelope.doc_id, envelope.payload, envelope.content_type) == ("d1", b"{}", "application/json")
        member.subscription.leave()

    def test_messages_of_one_document_arrive_in_order(self, group: Group) -> None:
        member = Member(group.subscription())
        for number in range(20):
            for doc_id in ("d1", "d2", "d3"):
                group.append(doc_id, b"%d" % number)
        receive(60, member)
        for key in (b"d1", b"d2", b"d3"):
            values = [message.value for message in member.received if message.key == key]
            assert values == [b"%d" % number for number in range(20)]
        member.subscription.leave()

    def test_poll_returns_at_most_the_rows_asked_for(self, group: Group) -> None:
        member = Member(group.subscription())
        for number in range(9):
            group.append(f"d{number}")
        receive(1, member)
        before = len(member.received)
        while len(member.received) < 9:
            member.poll(rows=2)
            assert len(member.received) - before <= 2
            before = len(member.received)
        assert list(member.subscription.poll(2, 0.05)) == []
        member.subscription.leave()

    def test_group_continues_after_the_committed_offset(self, group: Group) -> None:
        for value in (b"1", b"2", b"3"):
            group.append("d1", value)
        first = Member(group.subscription())
        receive(3, first)
        first.subscription.store_offsets(first.received[:2])
        first.subscription.commit()
        first.subscription.leave()
        second = Member(group.subscription())
        receive(1, second)
        assert second.values() == [b"3"]
        second.subscription.leave()

    def test_gap_is_told_before_the_messages_that_follow_it(self, group: Group) -> None:
        for number in range(20):
            group.append(f"d{number}", b"read")
        first = Member(group.subscription())
        receive(20, first)
        first.finished = first.received
        first.subscription.leave()
        group.append("d1", b"removed")
        group.remove_all()
        told: list[Collection[int]] = []
        second = Member(group.subscription(on_gap=told.append))
        group.append("d1", b"new")
        receive(1, second)
        assert second.values() == [b"new"]
        assert [list(numbers) for numbers in told] == [[second.received[0].partition[1]]]
        second.subscription.leave()

    def test_gap_is_told_again_until_it_is_marked(self, group: Group) -> None:
        group.append("d1", b"removed")
        group.remove_all()
        group.append("d1", b"new")
        told: list[Collection[int]] = []

        def fail_twice(numbers: Collection[int]) -> None:
            told.append(numbers)
            if len(told) < 3:
                raise Retryable("the database is away")

        member = Member(group.subscription(on_gap=fail_twice))
        receive(1, member)
        assert (len(told), member.values()) == (3, [b"new"])
        member.subscription.leave()

    def test_messages_that_were_not_stored_are_given_again(self, group: Group) -> None:
        group.append("d1", b"1")
        first = Member(group.subscription())
        receive(1, first)
        first.subscription.commit()
        first.subscription.leave()
        second = Member(group.subscription())
        receive(1, second)
        assert second.values() == [b"1"]
        second.subscription.leave()

    def test_positions_are_after_every_message_that_was_polled(self, group: Group) -> None:
        for number in range(9):
            group.append(f"d{number}", b"old")
        first = Member(group.subscription())
        receive(9, first)
        assert list(first.subscription.poll(100, 0.5)) == []
        first.subscription.store_offsets(first.received)
        first.subscription.store_positions()
        for number in range(9):
            group.append(f"d{number}", b"new")
        first.subscription.commit()
        first.subscription.leave()
        second = Member(group.subscription())
        receive(9, second)
        assert set(second.values()) == {b"new"}
        second.subscription.leave()

    def test_paused_member_gives_nothing_until_resumed(self, group: Group) -> None:
        member = Member(group.subscription())
        group.append("d1", b"1")
        receive(1, member)
        member.subscription.pause()
        group.append("d1", b"2")
        for _ in range(10):
            member.subscription.serve(0.05)  # raises AssertionError on a message
        member.poll()
        assert member.values() == [b"1"]
        member.subscription.resume()
        receive(2, member)
        assert member.values() == [b"1", b"2"]
        member.subscription.leave()

    def test_partitions_assigned_while_paused_stay_paused(self, group: Group) -> None:
        first, second = Member(group.subscription()), Member(group.subscription())
        for number in range(20):
            group.append(f"d{number}")
        receive(20, first, second)
        first.finished, second.finished = first.received, second.received
        first.subscription.pause()
        second.subscription.leave()
        for number in range(20):
            group.append(f"d{number}")
        for _ in range(20):
            first.subscription.serve(0.05)
        first.subscription.resume()
        poll_until(lambda: len(first.received + second.received) == 40, "all messages", first)
        first.subscription.leave()

    def test_partitions_move_after_on_revoke_with_their_committed_offsets(self, group: Group) -> None:
        first = Member(group.subscription())
        for number in range(20):
            group.append(f"d{number}", b"old")
        receive(20, first)
        first.finished = first.received
        second = Member(group.subscription())
        poll_until(lambda: bool(first.revoked), "a revoked partition", first, second)
        moved = set(first.revoked)
        for number in range(20):
            group.append(f"d{number}", b"new")
        receive(40, first, second)
        assert set(second.values()) == {b"new"}
        assert {message.partition for message in second.received} <= moved
        assert len({(message.partition, message.offset) for message in first.received + second.received}) == 40
        second.subscription.leave()
        first.subscription.leave()

    def test_leaving_member_may_commit_in_on_revoke(self, group: Group) -> None:
        group.append("d1", b"1")
        first = Member(group.subscription())
        receive(1, first)
        first.finished = first.received
        first.subscription.leave()
        group.append("d1", b"2")
        second = Member(group.subscription())
        receive(1, second)
        assert second.values() == [b"2"]
        second.subscription.leave()
