"""The contracts of the consumer loop's ports, on Kafka."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from confluent_kafka import Producer

from consumers import dead_letters as dead_letters_module
from consumers.dead_letters import KafkaDeadLetters
from consumers.kafka_subscription import KafkaSubscription
from consumers.subscription import Headers
from schema.failures import Retryable
from schema.kafka.names import Names
from schema.sinks import MILVUS
from tests.contracts.dead_letters import DeadLettersContract, letter
from tests.contracts.subscription import SubscriptionContract
from tests.support import kafka
from tests.support.servers import Servers

pytestmark = pytest.mark.integration


@dataclass
class KafkaGroup:
    kafka: dict[str, Any]
    names: Names
    producer: Producer

    def append(self, doc_id: str, value: bytes = b"", headers: Headers = ()) -> None:
        self.producer.produce(self.names.documents_topic, key=doc_id.encode(), value=value, headers=list(headers))
        assert self.producer.flush(30) == 0

    def subscription(self) -> KafkaSubscription:
        return KafkaSubscription(self.kafka, self.names, MILVUS)


@pytest.fixture
def group(servers: Servers, names: Names) -> KafkaGroup:
    return KafkaGroup(kafka.properties(servers), names, Producer({"bootstrap.servers": servers.kafka}))


@pytest.fixture
def dead_letters(servers: Servers, names: Names) -> KafkaDeadLetters:
    return KafkaDeadLetters(kafka.properties(servers), names.dead_letters_topic(MILVUS))


@pytest.fixture
def stored(servers: Servers, names: Names) -> Callable[[], list[tuple[bytes, bytes, dict[str, str]]]]:
    def read() -> list[tuple[bytes, bytes, dict[str, str]]]:
        seen = kafka.topic(servers, names.dead_letters_topic(MILVUS))
        return [(one.doc_id.encode(), one.value, one.headers) for one in seen]

    return read


class TestKafkaSubscription(SubscriptionContract):
    """On the fixture `group`."""


class TestKafkaDeadLetters(DeadLettersContract):
    """On the fixtures `dead_letters` and `stored`."""


def test_dead_letters_without_a_broker_are_retryable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters_module, "_FLUSH_SECONDS", 0.2)
    unreachable = KafkaDeadLetters({"bootstrap.servers": "127.0.0.1:1", "log_level": 0}, "topic")
    for _ in range(2):
        with pytest.raises(Retryable, match="Kafka does not take the dead letters"):
            unreachable.send([letter(1)])
