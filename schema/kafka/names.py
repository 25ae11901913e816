"""Names of topics and groups, derived from one namespace, so that systems can share a Kafka cluster."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Names:
    """Letters, digits, `-` and `_`; the default gives the names of the documentation."""

    namespace: str = "rag"

    @property
    def documents_topic(self) -> str:
        return f"{self.namespace}.documents"

    @property
    def lanes_topic(self) -> str:
        """A partition a lane, and no messages: its assignment is the ownership of lanes."""
        return f"{self.namespace}.relay-lanes"

    @property
    def relays_group(self) -> str:
        return f"{self.namespace}-relays"

    def sink_group(self, sink: str) -> str:
        return f"{self.namespace}-{sink}"

    def dead_letters_topic(self, sink: str) -> str:
        return f"{self.documents_topic}.dead-letters.{sink}"
