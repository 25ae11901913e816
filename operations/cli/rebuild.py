"""`rag-outbox rebuild`."""

from typing import TYPE_CHECKING, Annotated

import typer

from operations import settings
from operations.cli.options import Json
from operations.cli.output import Output, count
from operations.cli.watch import show_fill

if TYPE_CHECKING:
    from operations.rebuild.fill import Watch
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
    until `sinks remove` drops it. Another sink: in place, document by document.
    Ctrl-C is harmless: the same command continues.
    """
    from operations import wiring
    from operations.rebuild.errors import StoresDiffer
    from operations.rebuild.plugin import rebuild_in_place
    from schema.sinks import MILVUS

    _check(sink, has_index=index is not None or index_parameters is not None, rollback=rollback)
    output = Output(json=as_json)
    with wiring.open_system(settings.load()) as system, show_fill(output, sink, give_up_seconds) as watch:
        if sink != MILVUS:
            progress = rebuild_in_place(system, sink, watch)
            output.result({"sink": sink, "documents": progress.total}, f"{sink} holds {progress.applied:,} documents.")
            return
        try:
            rebuilt = _rebuild_milvus(system, watch, index, index_parameters, rollback=rollback)
        except StoresDiffer as error:
            output.note(f"rag-outbox: {error}")
            output.result({"error": str(error), "differences": error.differences})
            raise typer.Exit(3) from None
    _show(output, rebuilt)


def _check(sink: str, *, has_index: bool, rollback: bool) -> None:
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
    if sink != MILVUS and (has_index or rollback):
        raise UsageError(f"--index, --index-parameters and --rollback go with {MILVUS}")
    if rollback and has_index:
        raise UsageError("--rollback changes no index")


def _rebuild_milvus(
    system: "System", watch: "Watch", index: str | None, parameters: str | None, *, rollback: bool
) -> "Rebuilt":
    from operations.rebuild import milvus
    from operations.rebuild.index import parse_index

    if rollback:
        return milvus.roll_back(system, watch)
    here = system.settings
    is_lite = here.milvus_lite is not None
    wanted = parse_index(index, parameters, dimension=here.vector_dimension, is_lite=is_lite)
    return milvus.rebuild(system, wanted, watch)


def _show(output: Output, rebuilt: "Rebuilt") -> None:
    facts = {
        "serving": rebuilt.serving,
        "old": rebuilt.old,
        "documents": rebuilt.documents,
        "being_refilled": rebuilt.behind,
        "compared": rebuilt.compared,
        **({"index": rebuilt.options["index"]} if "index" in rebuilt.options else {}),
    }
    lines = [f"Searches use {rebuilt.serving}, which holds {count(rebuilt.documents, 'document')}."]
    if rebuilt.behind:
        lines.append(f"It is being refilled with {count(rebuilt.behind, 'document')}, written at this moment.")
    if rebuilt.old is not None:
        lines += [
            f"{rebuilt.old} stays up to date. To go back to it: rag-outbox rebuild milvus --rollback",
            f"To drop it: rag-outbox sinks remove {rebuilt.old}",
        ]
    output.result(facts, *lines)
