"""Whether a rebuild can change the embedding model: before anything is created."""

from collections.abc import Mapping
from typing import Any

from operations import sinks
from operations.embedders import make_embedder
from operations.errors import UsageError
from operations.instance_model import apply_model
from operations.rebuild.errors import NotPossible
from operations.rebuild.fill import Watch
from operations.wiring import System
from producer.processing.embed.port import EmbedderUnavailable, EmbedError
from schema.sinks import SINKS

_WORD = "test"


def require_usable(system: System, model: Mapping[str, Any], watch: Watch) -> None:
    """Embed a word with the new model. Raises NotPossible, or UsageError if the system has that model already."""
    if model["embedding_model"] == system.identity.embedding_model:
        raise UsageError(f"--embedder: the model of the system is {model['embedding_model']!r} already")
    embedder = make_embedder(apply_model(system.settings, model), system.engine, lambda: system.store)
    assert embedder is not None  # the option names one
    try:
        embedder.embed([_WORD])
    except (EmbedError, EmbedderUnavailable) as error:
        raise NotPossible(f"the new model cannot embed the word {_WORD!r} here: {error}") from error
    if system.embedder is None:
        watch.note(
            f"nothing here embeds text for {system.identity.embedding_model!r}: once writers send vectors of the new "
            "model, the previous collection cannot follow, and --rollback is not possible"
        )
    found = [one for one in sinks.read_all(system) if one.state != "leaving"]
    if others := [one.name for one in found if one.takes_vectors and one.kind not in SINKS]:
        watch.note(
            f"{', '.join(others)} will get vectors of the new model too, but only of documents that are written after "
            "the change: nothing embeds the other ones for it"
        )
