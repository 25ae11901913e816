"""A sink in memory: what a document holds, by chunk id and object key."""

from collections import defaultdict
from collections.abc import Sequence

from consumers.sink import Change
from schema.events.events import DocumentDeleted, DocumentUpserted
from schema.failures import Permanent, StoreMissing

Items = dict[str, str]  # chunk ids with their contents, object keys with their bytes as text


class MemorySink:
    """Takes vectors and inline files; refuses a chunk without a vector. `documents` is the store, None when lost."""

    name = "memory"
    takes_vectors = True
    takes_files = True

    def __init__(self) -> None:
        self.documents: dict[str, Items] | None = None

    def create(self) -> None:
        if self.documents is None:
            self.documents = defaultdict(dict)

    def ensure(self) -> None:
        self.store()

    def store(self) -> dict[str, Items]:
        if self.documents is None:
            raise StoreMissing("the memory is lost")
        return self.documents

    def apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self.write(change)
        for change in changes:
            self.remove(change)

    def write(self, change: Change) -> None:
        self.store()[change.doc_id] |= self.listed(change)

    def remove(self, change: Change) -> None:
        items, listed = self.store()[change.doc_id], self.listed(change)
        gone = {key for event in change.events for key in (*event.tombstones, *event.removed_files)}
        if change.replace:
            relabelled = {one.chunk_id for event in upserts(change) for one in event.relabelled}
            gone |= items.keys() - relabelled
        for key in gone - listed.keys():
            items.pop(key, None)

    def listed(self, change: Change) -> Items:
        """The items that a change carries."""
        items: Items = {}
        for event in upserts(change):
            for chunk in event.chunks:
                if not chunk.vector:
                    raise Permanent(f"chunk {chunk.chunk_id} has no vector")
                items[chunk.chunk_id] = chunk.content
            items |= {file.object_key: (file.content or b"").decode() for file in event.files}
        return items

    def close(self) -> None:
        """Nothing is open."""


def upserts(change: Change) -> list[DocumentUpserted]:
    return [event for event in change.events if not isinstance(event, DocumentDeleted)]
