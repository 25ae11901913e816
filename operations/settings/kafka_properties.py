"""Refuses variables RAG_OUTBOX_KAFKA_<PROPERTY> that librdkafka does not take, before a client is made from them."""

import difflib
from collections.abc import Mapping

_COMMON = (  # librdkafka tells no list of its properties; these are the ones of a secured cluster
    "bootstrap.servers",
    "client.id",
    "sasl.mechanism",
    "sasl.password",
    "sasl.username",
    "security.protocol",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.endpoint.identification.algorithm",
    "ssl.key.location",
    "ssl.key.password",
)
_END = "end.of.these.properties"  # unknown, too: librdkafka stops at it, and makes no client


def find_wrong_property(properties: Mapping[str, str]) -> tuple[str, str] | None:
    """The first property that librdkafka does not take, and why; None if it takes them all."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    for name, value in properties.items():
        try:
            AdminClient({name: value, _END: ""})
        except KafkaException as error:
            reason = error.args[0].str()
            if _END in reason:
                continue
            if not reason.startswith("No such configuration property"):
                return name, f"librdkafka refuses it for {name}"
            near = difflib.get_close_matches(name, _COMMON, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            return name, f"librdkafka has no property {name}{hint}"
    return None
