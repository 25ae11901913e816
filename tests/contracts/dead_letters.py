"""What a consumer's store of dead letters owes the consumer loop."""

from collections.abc import Callable

from consumers.dead_letters import DeadLetters
from consumers.subscription import Headers, Message
from schema.failures import DeadLetter

Stored = Callable[[], list[tuple[bytes, bytes, dict[str, str]]]]  # key, value and headers


def letter(number: int, headers: Headers = ()) -> tuple[Message, DeadLetter]:
    message = Message(("topic", 3), number, b"d1", b"value %d" % number, headers)
    return message, DeadLetter("milvus", message.envelope, f"reason {number}")


class DeadLettersContract:
    """Derive a class for a module that has fixtures `dead_letters` (empty) and `stored`, which reads them."""

    def test_letter_keeps_key_value_and_headers_and_names_its_reason(
        self, dead_letters: DeadLetters, stored: Stored
    ) -> None:
        dead_letters.send([letter(7, [("ce_id", b"e1"), ("ce_sequence", b"2")])])
        [(key, value, headers)] = stored()
        assert (key, value) == (b"d1", b"value 7")
        assert headers == {
            "ce_id": "e1",
            "ce_sequence": "2",
            "dead_letter_stage": "milvus",
            "dead_letter_reason": "reason 7",
            "dead_letter_origin": "topic/3/7",
        }

    def test_stored_events_are_counted_once(self, dead_letters: DeadLetters) -> None:
        assert dead_letters.count_stored() == 0
        dead_letters.send([letter(number, [("ce_id", b"e%d" % number)]) for number in range(3)])
        dead_letters.send([letter(number, [("ce_id", b"e%d" % number)]) for number in range(2, 4)])
        assert dead_letters.count_stored() == 4

    def test_all_letters_are_stored_in_order_when_send_returns(self, dead_letters: DeadLetters, stored: Stored) -> None:
        dead_letters.send([])
        needed = [("ce_id", b"e"), ("ce_sequence", b"1")]
        for first in (0, 10):
            dead_letters.send([letter(number, needed) for number in range(first, first + 10)])
        assert [value for _, value, _ in stored()] == [b"value %d" % number for number in range(20)]
