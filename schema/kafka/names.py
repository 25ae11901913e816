"""Names of topics and groups, derived from one namespace, so that systems can share a Kafka cluster."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Names:
    """`namespace`: letters, digits, `-` and `_`. The documentation uses the names of the default."""

    namespace: str = "rag"

    @property
    def documents_topic(self) -> str:
        return f"{self.namespace}.documents"

    @property
    def lanes_topic(self) -> str:
        """One partition per lane, and no messages: the owner of a partition owns the lane."""
        return f"{self.namespace}.relay-lanes"

    @property
    def relays_group(self) -> str:
        return f"{self.namespace}-relays"

    def sink_group(self, sink: str) -> str:
        return f"{self.namespace}-{sink}"

    def dead_letters_topic(self, sink: str) -> str:
        return f"{self.documents_topic}.dead-letters.{sink}"
