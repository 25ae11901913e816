"""`rag-outbox models put | list`."""

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from operations import settings
from operations.cli.options import Json, require_choice
from operations.cli.output import Output, count, table
from operations.errors import UsageError

if TYPE_CHECKING:
    from operations.wiring import System

app = typer.Typer(help="Keep the files of embedding models in the bucket, for every machine.", no_args_is_help=True)

_MODELS = ("bge-m3",)


@app.command("put", epilog="Example: rag-outbox models put bge-m3 ~/bge-m3")
def put(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model: bge-m3.")],
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="The folder with model.onnx, tokenizer.json and sparse_linear.pt."),
    ],
    as_json: Json = False,
) -> None:
    """Check the files of a model, and put them into the bucket.

    Only what the bucket lacks is sent. Repeat the command after an interruption. Processes with
    RAG_OUTBOX_EMBEDDER=bge-m3 and without a folder of their own fetch the files when they embed their first text.
    """
    from operations import wiring
    from operations.model_files import put as putting
    from producer.processing.embed.bge_m3 import DIMENSION, BgeM3Embedder
    from producer.processing.embed.port import EmbedError

    require_choice("MODEL", model, _MODELS)
    output = Output(json=as_json)
    files = putting.find_files(folder)
    try:
        BgeM3Embedder(folder).embed_both(["test"])
    except EmbedError as error:
        raise UsageError(f"DIR: {error}") from error
    with wiring.open_system(settings.load()) as system:
        _require_own_bucket(system)
        with output.progress("Putting parts", putting.count_parts(folder, files)) as bar:
            done = putting.put_model(system.store, model, DIMENSION, folder, files, bar.advance)
    facts = {"model": model, "dimension": DIMENSION, **asdict(done)}
    output.result(
        facts,
        f"Put {count(done.files, 'file')} of {model}, {done.size_bytes:,} bytes: {count(done.written_parts, 'part')} "
        f"written, {done.kept_parts} there already.",
    )


@app.command("list", epilog="Example: rag-outbox models list --json | jq -r '.models[].model'")
def list_models(as_json: Json = False) -> None:
    """Show the models whose files are in the bucket."""
    from operations import wiring
    from operations.model_files import manifest

    output = Output(json=as_json)
    with wiring.open_system(settings.load()) as system:
        _require_own_bucket(system)
        found = list(manifest.list_models(system.store))
    shown = table("model", "#dimension", "#files", "#bytes")
    for one in found:
        shown.add_row(one.model, str(one.dimension), str(len(one.files)), f"{one.size_bytes:,}")
    facts = [
        {"model": one.model, "dimension": one.dimension, "files": len(one.files), "size_bytes": one.size_bytes}
        for one in found
    ]
    output.result({"models": facts}, shown if found else "The bucket has no models.")


def _require_own_bucket(system: "System") -> None:
    """Raises OtherSystem or StoreMissing."""
    from consumers.minio.sink import MinioSink

    with closing(MinioSink(system.store, system.identity.system_id)) as sink:
        sink.ensure()
