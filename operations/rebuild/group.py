"""The consumer group of a sink that joins or leaves. All calls are bounded and raise Retryable."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from schema.failures import Retryable
from schema.kafka.clients import for_consumer, for_producer
from schema.kafka.names import Names

_CALL_SECONDS = 10.0
_GONE = {KafkaError.GROUP_ID_NOT_FOUND, KafkaError.NOT_COORDINATOR}


class SinkGroup:
    """`kafka` are librdkafka properties."""

    def __init__(self, kafka: Mapping[str, Any], names: Names, sink: str, lanes: int) -> None:
        self._kafka = kafka
        self._topic = names.documents_topic
        self._lanes = lanes
        self.name = names.sink_group(sink)

    def commit_ends(self) -> None:
        """Let the group begin at the end of the topic; it has no members. May be repeated."""
        settings = {**for_consumer(self._kafka), "group.id": self.name, "enable.auto.commit": False}
        with _translate():
            consumer = Consumer(settings | {"isolation.level": "read_committed"})  # it does not join
            try:
                ends = []
                for number in range(self._lanes):
                    partition = TopicPartition(self._topic, number)
                    _, high = consumer.get_watermark_offsets(partition, timeout=_CALL_SECONDS)
                    ends.append(TopicPartition(self._topic, number, high))
                consumer.commit(offsets=ends, asynchronous=False)
            finally:
                consumer.close()

    def count_members(self) -> int:
        with _translate():
            admin = AdminClient(for_producer(self._kafka))
            asked = admin.describe_consumer_groups([self.name], request_timeout=_CALL_SECONDS)
            return len(asked[self.name].result(_CALL_SECONDS).members)

    def delete(self) -> bool:
        """Delete the group with its offsets. Returns False if Kafka does not allow it."""
        admin = AdminClient(for_producer(self._kafka))
        asked = admin.delete_consumer_groups([self.name], request_timeout=_CALL_SECONDS)
        try:
            asked[self.name].result(_CALL_SECONDS)
        except KafkaException as error:
            return error.args[0].code() in _GONE
        except TimeoutError:
            return False
        return True


@contextmanager
def _translate() -> Iterator[None]:
    try:
        yield
    except KafkaException as error:
        raise Retryable(f"Kafka: {error.args[0].str()}") from error
    except TimeoutError as error:
        raise Retryable("Kafka: no answer") from error
