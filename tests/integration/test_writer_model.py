"""The system has got another embedding model: what the writer asks and sends of documents of the previous one."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from sqlalchemy import Engine, text

from producer import Chunk, Document, VectorRequired, Writer, WrongModel
from tests.support import written
from tests.support.pipeline import DIMENSION, MODEL, Pipeline, document

pytestmark = pytest.mark.integration

OTHER = "other-model"
OTHER_DIMENSION = 2 * DIMENSION


class OtherEmbedder:
    """`texts` are those that were embedded."""

    model = OTHER
    dimension = OTHER_DIMENSION

    def __init__(self) -> None:
        self.texts: list[str] = []

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.texts += texts
        return np.stack([np.full(OTHER_DIMENSION, len(one), np.float32) for one in texts])


@pytest.fixture
def changed(pipeline: Pipeline) -> Pipeline:
    """A document of the first model, in all sinks; then the system has another model."""
    pipeline.upsert(document("d", "one", "two"))
    pipeline.run()
    with pipeline.engine.begin() as connection:
        values = {"model": OTHER, "dimension": OTHER_DIMENSION}
        connection.execute(text("UPDATE system_identity SET embedding_model = :model, dimension = :dimension"), values)
    return pipeline


def model_of(engine: Engine) -> str:
    with engine.connect() as connection:
        return str(connection.execute(text("SELECT embedding_model FROM documents WHERE doc_id = 'd'")).scalar_one())


def other_document(*contents: str, title: str = "Title of d") -> Document:
    return Document(doc_id="d", title=title, source_type="text", chunks=[Chunk(content=one) for one in contents])


def test_writer_of_previous_model_is_refused(changed: Pipeline) -> None:
    with pytest.raises(WrongModel, match=f"model is '{OTHER}', this writer's is '{MODEL}'"):
        changed.upsert(document("d", "one", "three"))


def test_unchanged_document_keeps_vectors_of_previous_model(changed: Pipeline) -> None:
    embedder = OtherEmbedder()
    with changed.engine.begin() as connection:
        receipt = Writer(OTHER).upsert(connection, other_document("one", "two"), embedder=embedder)
    assert (receipt.changed, embedder.texts, model_of(changed.engine)) == (False, [], MODEL)


def test_first_change_of_chunks_embeds_all_of_them(changed: Pipeline) -> None:
    embedder = OtherEmbedder()
    with changed.engine.begin() as connection:
        Writer(OTHER).upsert(connection, other_document("one", "three"), embedder=embedder)
    assert sorted(embedder.texts) == ["one", "three"]
    [event] = written.events(changed.engine, "d", 2)
    assert (event["embedding_model"], event["dimension"]) == (OTHER, OTHER_DIMENSION)
    assert {row["content"]: len(row["vector"]) for row in event["chunks"]} == dict.fromkeys(
        ("one", "three"), 4 * OTHER_DIMENSION
    )
    assert model_of(changed.engine) == OTHER

    with changed.engine.begin() as connection:  # from now on, only what is new is embedded
        Writer(OTHER).upsert(connection, other_document("one", "three", "four"), embedder=embedder)
    assert sorted(embedder.texts[2:]) == ["four", "one", "three"], "no sink holds version 2 yet"


def test_archived_vectors_of_previous_model_are_no_help(changed: Pipeline) -> None:
    with changed.engine.begin() as connection, pytest.raises(VectorRequired) as needed:
        Writer(OTHER).upsert(connection, other_document("one", "two", title="Another"))
    assert needed.value.chunks == {"d": (0, 1)}
    assert needed.value.archived == {}


def test_given_vectors_of_new_model_are_a_change(changed: Pipeline) -> None:
    vector = [1.0] * OTHER_DIMENSION
    same = Document(
        doc_id="d",
        title="Title of d",
        source_type="text",
        chunks=[Chunk(content="one", vector=vector), Chunk(content="two", vector=vector)],
    )
    with changed.engine.begin() as connection:
        assert Writer(OTHER).upsert(connection, same).changed
    assert model_of(changed.engine) == OTHER


def test_relabel_needs_no_vectors_and_keeps_the_model(changed: Pipeline) -> None:
    with changed.engine.begin() as connection:
        Writer(OTHER).relabel(connection, "d", business_tag="another")
    [event] = written.events(changed.engine, "d", 2)
    assert (event["chunks"], len(event["relabelled"])) == ([], 2)
    assert (event["embedding_model"], model_of(changed.engine)) == (MODEL, MODEL)


def test_resync_with_vectors_of_new_model_replaces_all(changed: Pipeline) -> None:
    vector = [1.0] * OTHER_DIMENSION
    with changed.engine.begin() as connection:
        with pytest.raises(VectorRequired) as needed:
            Writer(OTHER).resync(connection, "d", [Chunk(content="one", vector=vector)])
        assert needed.value.chunks == {"d": (1,)}
        Writer(OTHER).resync(
            connection, "d", [Chunk(content="one", vector=vector), Chunk(content="two", vector=vector)]
        )
    [event] = written.events(changed.engine, "d", 2)
    assert (event["embedding_model"], len(event["chunks"])) == (OTHER, 2)
    assert model_of(changed.engine) == OTHER


def test_document_that_names_no_model_is_of_the_first_one(changed: Pipeline) -> None:
    """A service in another language may leave the column out."""
    with changed.engine.begin() as connection:
        connection.execute(text("UPDATE documents SET embedding_model = NULL"))
    embedder = OtherEmbedder()
    with changed.engine.begin() as connection:
        Writer(OTHER).upsert(connection, other_document("one", "two", "three"), embedder=embedder)
    assert sorted(embedder.texts) == ["one", "three", "two"]
