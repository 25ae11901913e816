"""`rag-outbox rebuild`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from operations import settings
from operations.cli.options import Json
from operations.cli.output import Output, count
from operations.cli.watch import show_fill

if TYPE_CHECKING:
    from operations.rebuild.milvus import Rebuilt
    from operations.wiring import System

EXAMPLE = "rag-outbox rebuild milvus --index IVF_FLAT --index-parameters nlist=2048"


def command(
    sink: Annotated[str, typer.Argument(help="The sink to rebuild: milvus, or one of another package.")],
    index: Annotated[
        str | None,
        typer.Option(
            "--index", help="The index of the vectors: HNSW, IVF_FLAT, IVF_SQ8, IVF_PQ, FLAT … [as it is now]"
        ),
    ] = None,
    index_parameters: Annotated[
        str | None, typer.Option("--index-parameters", help="Its parameters: M=32,efConstruction=400.")
    ] = None,
    embedder: Annotated[
        str | None,
        typer.Option("--embedder", help="Another embedding model: wordllama, bge-m3 or openai. [as it is now]"),
    ] = None,
    embedder_option: Annotated[
        list[str] | None,
        typer.Option(
            "--embedder-option",
            help="NAME=VALUE for openai: url, model, dimension; also server-model, query-prefix, passage-prefix.",
        ),
    ] = None,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Fill and compare the new collection, and stop before searches use it.")
    ] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Let searches use the previous collection again.")
    ] = False,
    give_up_seconds: Annotated[
        float | None, typer.Option(min=0, help="Fail when nothing moves for this time. [never]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write everything that a sink holds again, from MySQL and the archive, while writes and searches go on.

    milvus: a new collection is filled and compared with MySQL, then searches use it; the old one stays up to date
    until `sinks remove` drops it. With --embedder, its consumers embed every text again, and the system has that model
    from then on. Another sink: in place, document by document.
    Ctrl-C is harmless: the same command continues.
    """
    from operations import wiring
    from operations.rebuild.errors import StoresDiffer
    from schema.sinks import MILVUS

    given = _Given(index, index_parameters, embedder, embedder_option or [])
    _check(sink, has_changes=given.has_changes, prepare=prepare, rollback=rollback)
    output = Output(json=as_json)
    with wiring.open_system(settings.load()) as system, show_fill(output, sink, give_up_seconds) as watch:
        if sink != MILVUS:
            from operations.rebuild.plugin import rebuild_in_place

            progress = rebuild_in_place(system, sink, watch)
            output.result({"sink": sink, "documents": progress.total}, f"{sink} holds {progress.applied:,} documents.")
            return
        from operations.rebuild import milvus

        try:
            if rollback:
                rebuilt = milvus.roll_back(system, watch)
            else:
                rebuilt = milvus.rebuild(system, given.parse(system), watch, prepare=prepare)
        except StoresDiffer as error:
            output.note(f"rag-outbox: {error}")
            output.result({"error": str(error), "differences": error.differences})
            raise typer.Exit(3) from None
    _show(output, rebuilt)


def _check(sink: str, *, has_changes: bool, prepare: bool, rollback: bool) -> None:
    """Raise NotPossible or UsageError for a sink that cannot be rebuilt, or not with these options."""
    from operations.errors import UsageError
    from operations.rebuild.errors import NotPossible
    from schema.sinks import MILVUS, MINIO, kind_of

    if sink == MINIO:
        raise NotPossible(
            "minio cannot be rebuilt: it has the files and the archive that all refills read. "
            "Restore its bucket from a backup, or see what it lacks: rag-outbox reconcile --sink minio --repair"
        )
    if sink != MILVUS and kind_of(sink) == MILVUS:
        raise UsageError(f"{sink} is an instance of {MILVUS}: rag-outbox rebuild {MILVUS}")
    if sink != MILVUS and (has_changes or prepare or rollback):
        raise UsageError(f"--index…, --embedder…, --prepare and --rollback go with {MILVUS}")
    if rollback and (has_changes or prepare):
        raise UsageError("--rollback changes no index and no model, and goes without --prepare")


@dataclass(frozen=True)
class _Given:
    """The options that describe the new collection."""

    index: str | None
    index_parameters: str | None
    embedder: str | None
    embedder_options: list[str]

    @property
    def has_changes(self) -> bool:
        return any((self.index, self.index_parameters, self.embedder, self.embedder_options))

    def parse(self, system: "System") -> dict[str, Any]:
        """The options of the instance that change. Raises UsageError."""
        from operations import instance_model
        from operations.rebuild.index import parse_index

        model = instance_model.parse_model(system.settings, self.embedder, self.embedder_options)
        dimension = system.identity.dimension if model is None else model["vector_dimension"]
        is_lite = system.settings.milvus_lite is not None
        index = parse_index(self.index, self.index_parameters, dimension=dimension, is_lite=is_lite)
        return {name: value for name, value in {"index": index, "model": model}.items() if value is not None}


def _show(output: Output, rebuilt: "Rebuilt") -> None:
    facts = {
        "serving": rebuilt.serving,
        "old": rebuilt.old,
        "documents": rebuilt.documents,
        "being_refilled": rebuilt.behind,
        "compared": rebuilt.compared,
        **({"index": rebuilt.options["index"]} if "index" in rebuilt.options else {}),
        **({"prepared": rebuilt.prepared} if rebuilt.prepared else {}),
        **({"model": rebuilt.model} if rebuilt.model else {}),
    }
    if rebuilt.prepared is not None:
        output.result(
            facts,
            f"{rebuilt.prepared} holds {count(rebuilt.documents, 'document')}, and stays up to date.",
            f"Searches still use {rebuilt.serving}. Let them use the new one: rag-outbox rebuild milvus",
            f"To give it up: rag-outbox sinks remove {rebuilt.prepared}",
        )
        return
    lines = [f"Searches use {rebuilt.serving}, which holds {count(rebuilt.documents, 'document')}."]
    if rebuilt.behind:
        lines.append(f"It is being refilled with {count(rebuilt.behind, 'document')}, written at this moment.")
    if rebuilt.model is not None:
        lines.append(
            f"The model of the system is {rebuilt.model} now. Writers of the previous model are refused: start them, "
            "and all processes that embed, with the settings of the new one."
        )
    if rebuilt.old is not None:
        lines += [
            f"{rebuilt.old} stays up to date. To go back to it: rag-outbox rebuild milvus --rollback",
            f"To drop it: rag-outbox sinks remove {rebuilt.old}",
        ]
    output.result(facts, *lines)
