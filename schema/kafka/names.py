"""Names of topics and groups, derived from one namespace and the system id.

Systems with their own namespaces share a Kafka cluster. Those with the same one share topics; their own groups keep
them apart, and the source of each event tells whose it is.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Names:
    """`namespace`: letters, digits, `-` and `_`. `system_id`: a UUID, whole, since similar ones may begin alike."""

    namespace: str
    system_id: str

    @property
    def documents_topic(self) -> str:
        return f"{self.namespace}.documents"

    @property
    def lanes_topic(self) -> str:
        """One partition per lane, and no messages: the owner of a partition owns the lane."""
        return f"{self.namespace}.relay-lanes"

    @property
    def relays_group(self) -> str:
        return f"{self.namespace}-{self.system_id}-relays"

    @property
    def source(self) -> str:
        """The header `ce_source` of every event of this system: a URI reference."""
        return f"rag-outbox/{self.system_id}"

    def sink_group(self, sink: str) -> str:
        return f"{self.namespace}-{self.system_id}-{sink}"

    def dead_letters_topic(self, sink: str) -> str:
        return f"{self.documents_topic}.dead-letters.{sink}"
