"""A sink of another model than the event's embeds the texts by itself."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from consumers.sink import Change
from operations.embedding_sink import EmbeddingSink
from producer.processing.embed.port import EmbedderUnavailable, EmbedError
from schema.events.events import ChunkRow, DocumentDeleted, DocumentUpserted
from schema.failures import ModelAway, Permanent, Retryable
from tests.support.memory_sink import MemorySink

pytestmark = pytest.mark.unit


class Embedder:
    model = "new"
    dimension = 2

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.texts: list[str] = []

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.texts += texts
        if self.error is not None:
            raise self.error
        return np.array([[len(one), 0.0] for one in texts], np.float32)


def upserted(model: str, *contents: str) -> DocumentUpserted:
    rows = [
        ChunkRow(chunk_id=f"id-{one}", content_hash=one, content=one, vector=np.ones(3, "<f4").tobytes())
        for one in contents
    ]
    return DocumentUpserted(
        doc_id="d",
        version=1,
        history_id="h",
        embedding_model=model,
        dimension=3,
        title="t",
        source_type="text",
        chunk_count=len(rows),
        chunks=rows,
    )


class Recorded(MemorySink):
    """Keeps the changes that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Change] = []

    def apply(self, changes: Sequence[Change]) -> None:
        self.given += changes


def apply(embedder: Embedder | None, *events: DocumentUpserted | DocumentDeleted) -> list[Change]:
    inner = Recorded()
    EmbeddingSink(inner, "new", 2, lambda: embedder).apply([Change("d", 1, events)])
    return inner.given


def test_vectors_of_another_model_are_replaced() -> None:
    embedder = Embedder()
    [change] = apply(embedder, upserted("old", "a", "bcd"), upserted("new", "kept"))
    replaced, kept = change.events
    assert isinstance(replaced, DocumentUpserted)
    assert (replaced.embedding_model, replaced.dimension) == ("new", 2)
    assert [np.frombuffer(row.vector, "<f4").tolist() for row in replaced.chunks] == [[1.0, 0.0], [3.0, 0.0]]
    assert [row.content for row in replaced.chunks] == ["a", "bcd"]
    assert kept == upserted("new", "kept")
    assert embedder.texts == ["a", "bcd"]


def test_events_of_the_same_model_and_deletes_load_no_embedder() -> None:
    events = (upserted("new", "a"), DocumentDeleted(doc_id="d", version=1, history_id="h"))

    def load() -> Embedder:
        raise AssertionError("nothing has to be embedded")

    inner = Recorded()
    EmbeddingSink(inner, "new", 2, load).apply([Change("d", 1, events)])
    assert inner.given == [Change("d", 1, events)]


def test_system_that_never_changed_its_model_takes_vectors_as_they_are() -> None:
    event = upserted("a name that nobody checked", "a")
    assert apply(None, event) == [Change("d", 1, (event,))]


def test_refused_text_is_permanent_and_names_its_chunk() -> None:
    error = EmbedError("is too long", index=1)
    with pytest.raises(Permanent, match=r"^chunk id-b: is too long$"):
        apply(Embedder(error), upserted("old", "a", "b"))


@pytest.mark.parametrize("error", [EmbedError("the model cannot be loaded"), EmbedderUnavailable("busy")], ids=str)
def test_fault_of_the_model_is_no_fault_of_a_document(error: Exception) -> None:
    with pytest.raises(ModelAway, match=str(error)):
        apply(Embedder(error), upserted("old", "a"))


def test_wrong_vector_of_the_model_is_retryable() -> None:
    class Wrong(Embedder):
        def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
            return np.full((len(texts), 2), np.nan, np.float32)

    with pytest.raises(Retryable, match="new returned a vector that breaks a limit"):
        apply(Wrong(), upserted("old", "a"))


def test_progress_is_noted_while_many_texts_are_embedded() -> None:
    """A slow model may take minutes for them: the process is alive."""
    embedder, noted = Embedder(), list[int]()
    event = upserted("old", *(f"text {number}" for number in range(200)))
    sink = EmbeddingSink(Recorded(), "new", 2, lambda: embedder, lambda: noted.append(len(embedder.texts)))
    sink.apply([Change("d", 1, (event,))])
    assert noted == [64, 128, 192, 200]


def test_refused_text_behind_many_others_names_its_chunk() -> None:
    class Refusing(Embedder):
        def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
            if "text 70" in texts:
                raise EmbedError("is too long", index=texts.index("text 70"))
            return super().embed(texts)

    with pytest.raises(Permanent, match=r"^chunk id-text 70: is too long$"):
        apply(Refusing(), upserted("old", *(f"text {number}" for number in range(100))))
