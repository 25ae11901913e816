"""What goes on while the system gets another embedding model: replays, reconcile, the console, a restore."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from operations import sinks
from operations.dead_letters.letters import find
from operations.dead_letters.replay import replay
from operations.instance_model import parse_model
from operations.rebuild.fill import Watch
from operations.rebuild.models import require_usable
from operations.reconcile import archived_vectors
from operations.settings import Settings
from producer import Chunk, Document, Writer
from schema import ownership
from schema.database.tables import sinks as sinks_table
from schema.database.tables import system_identity
from schema.sinks import MILVUS
from tests.support import embedding_server, written
from tests.support.console import ConsoleSystem, browsing, refuse, words
from tests.support.pipeline import DIMENSION, MODEL, SYSTEM_ID, Pipeline, document
from tests.support.reconciled import found, reconciled

pytestmark = pytest.mark.integration

OTHER = "other-model"
VECTOR = [0.5] * DIMENSION


def change_model(pipeline: Pipeline) -> None:
    """As the swap of a rebuild does; both models have the same dimension, so nothing else tells them apart."""
    with pipeline.engine.begin() as connection:
        connection.execute(update(system_identity).values(embedding_model=OTHER))


def system_of(pipeline: Pipeline, folder: Path) -> ConsoleSystem:
    """A process with the settings of the other model; it was started before the change."""
    made = ConsoleSystem.of(pipeline, folder / "data")
    made.settings = Settings(data_dir=folder / "data", embedding_model=OTHER, vector_dimension=DIMENSION)
    assert made.identity.embedding_model == MODEL
    return made


def test_replay_keeps_the_model_of_archived_vectors(pipeline: Pipeline, tmp_path: Path) -> None:
    """A process that read the identity before the change must not send them as vectors of the new model."""
    pipeline.upsert(document("d", "one"))
    pipeline.run()
    pipeline.execute("UPDATE sink_states SET state = 'failed' WHERE sink = 'milvus'")
    system = system_of(pipeline, tmp_path)
    change_model(pipeline)
    letters = find(system, [refuse(pipeline.engine, "d")])
    assert replay(system, letters) == 2
    [event] = written.events(pipeline.engine, "d", 2)
    assert (event["embedding_model"], len(event["chunks"])) == (MODEL, 1)
    assert pipeline.sql("SELECT embedding_model FROM documents") == [(MODEL,)]


def test_document_that_changes_its_model_during_a_comparison_is_no_difference(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.upsert(document("d", "one"))
    pipeline.run()
    previous = pipeline.milvus_rows()
    model = {"embedding_model": MODEL, "vector_dimension": DIMENSION}
    with pipeline.engine.begin() as connection:
        connection.execute(update(sinks_table).where(sinks_table.c.name == MILVUS).values(options={"model": model}))
    look, is_written = archived_vectors._look, False

    def write_first(*arguments: Any) -> archived_vectors.View:
        nonlocal is_written
        if not is_written:
            is_written = True
            change_model(pipeline)
            chunks = [Chunk(content="one", vector=VECTOR)]
            with pipeline.engine.begin() as connection:
                Writer(OTHER).upsert(
                    connection, Document(doc_id="d", title="Title of d", source_type="text", chunks=chunks)
                )
            pipeline.run()
            embedded = [row | {"doc_version": 2} for row in previous.values()]  # what a consumer of that model writes
            pipeline.milvus.upsert("rag_vectors", embedded)
        return look(*arguments)

    monkeypatch.setattr(archived_vectors, "_look", write_first)
    assert {one for one in found(reconciled(pipeline)) if one[1] == "stale"} == set()
    assert is_written


def test_console_says_that_the_model_changed(pipeline: Pipeline, tmp_path: Path) -> None:
    system = ConsoleSystem.of(pipeline, tmp_path / "data")
    change_model(pipeline)
    with browsing(system) as browser:
        shown = words(browser.page("/search?q=relays"))
    assert f"the model of the system is '{OTHER}' of {DIMENSION} dimensions, the settings name '{MODEL}'" in shown


@pytest.mark.parametrize("system_id", [SYSTEM_ID, "another"])
def test_collection_of_another_dimension_does_not_hinder_its_own_system(
    system_id: str, pipeline: Pipeline, tmp_path: Path
) -> None:
    """A restore meets the collections of all models that the system had."""
    system = ConsoleSystem.of(pipeline, tmp_path / "data")
    system.settings = Settings(data_dir=tmp_path / "data", embedding_model=OTHER, vector_dimension=2 * DIMENSION)
    if system_id == SYSTEM_ID:
        sinks._refuse_other_collection(system, pipeline.milvus, system_id)
        return
    with pytest.raises(ownership.OtherSystem):
        sinks._refuse_other_collection(system, pipeline.milvus, system_id)


def test_sinks_that_nothing_embeds_for_are_named(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.execute("INSERT INTO sinks (name, required, takes_vectors, takes_files) VALUES ('vespa', 0, 1, 0)")
    pipeline.execute("INSERT INTO sinks (name, required, takes_vectors, takes_files) VALUES ('fulltext', 0, 0, 1)")
    notes: list[str] = []
    with embedding_server.serve() as server:
        options = [f"url={server.url}", f"model={OTHER}", "dimension=8"]
        system = ConsoleSystem.of(pipeline, tmp_path / "data")
        model = parse_model(system.settings, "openai", options)
        assert model is not None
        require_usable(system, model, Watch(note=notes.append))
    assert [line.split(",")[0] for line in notes] == ["vespa will get vectors of the new model too"]
