"""The embedding model of an instance of Milvus, as the table `sinks` keeps it once a rebuild has changed the model.

It is a set of settings that take the place of those of the process: the model, its dimension, and what makes vectors.
"""

from collections.abc import Mapping
from typing import Any

from operations.errors import UsageError
from operations.settings import Settings, SettingsError
from operations.settings.check import check
from operations.settings.embedder_fields import BUILT_IN_MODELS
from schema import limits

_FIELDS = (
    "embedding_model",
    "vector_dimension",
    "embedder",
    "embedder_url",
    "embedder_model",
    "embedder_query_prefix",
    "embedder_passage_prefix",
)
_OF_SERVER = {  # names of --embedder-option
    "url": "embedder_url",
    "model": "embedding_model",
    "dimension": "vector_dimension",
    "server-model": "embedder_model",
    "query-prefix": "embedder_query_prefix",
    "passage-prefix": "embedder_passage_prefix",
}
_REQUIRED = ("url", "model", "dimension")


def parse_model(settings: Settings, kind: str | None, given: list[str]) -> dict[str, Any] | None:
    """The model that the options `--embedder` and `--embedder-option` name; None without them. Raises UsageError."""
    if kind is None:
        if given:
            raise UsageError("--embedder-option goes with --embedder")
        return None
    if kind not in (*BUILT_IN_MODELS, "openai"):
        raise UsageError(f"--embedder {kind!r}: must be {', '.join(BUILT_IN_MODELS)} or openai")
    options = _parse_options(given)
    if kind == "openai":
        made = _of_server(options)
    elif options:
        raise UsageError(f"--embedder-option: {kind} has no options")
    else:
        name, dimension = BUILT_IN_MODELS[kind]
        made = {"embedding_model": name, "vector_dimension": dimension}
    model = dict.fromkeys(_FIELDS) | made | {"embedder": kind}
    try:
        check(apply_model(settings, model))
    except SettingsError as error:
        raise UsageError(f"--embedder {kind}: {error}") from None
    return model


def model_of_settings(settings: Settings) -> dict[str, Any]:
    """The model that the settings of this process name."""
    return {name: getattr(settings, name) for name in _FIELDS}


def apply_model(settings: Settings, model: Mapping[str, Any]) -> Settings:
    """The settings with this model in place of their own. Its server gets the key of its own address only.

    Settings that name the same model stay as they are: its server may have moved since the rebuild.
    """
    names = ("embedding_model", "vector_dimension")
    if all(getattr(settings, name) == model[name] for name in names) and settings.embedder not in (None, "none"):
        return settings
    is_same_server = _address(model["embedder_url"]) == _address(settings.embedder_url)
    key = settings.embedder_key if is_same_server else settings.other_embedder_key
    of_bge = {} if model["embedder"] == "bge-m3" else {"embedder_folder": None, "embedder_threads": None}
    is_server = model["embedder"] == "openai"
    return settings.model_copy(update={**model, **of_bge, "embedder_key": key if is_server else None})


def _address(url: str | None) -> str:
    return (url or "").rstrip("/")


def _parse_options(given: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in given:
        name, is_value, value = one.partition("=")
        if name not in _OF_SERVER or not is_value or not value or name in found:
            raise UsageError(
                f"--embedder-option: {one!r} must be NAME=VALUE, and each name given once; "
                f"names: {', '.join(_OF_SERVER)}"
            )
        found[name] = value
    return found


def _of_server(options: Mapping[str, str]) -> dict[str, Any]:
    for name in _REQUIRED:
        if name not in options:
            raise UsageError(f"--embedder openai needs --embedder-option {name}=…")
    dimension, most = options["dimension"], limits.VECTOR_DIMENSION
    if not dimension.isascii() or not dimension.isdigit() or not 1 <= int(dimension) <= most:
        raise UsageError(f"--embedder-option dimension={dimension}: must be a number from 1 to {most}")
    if len(options["model"]) > limits.MODEL_CHARACTERS:
        raise UsageError(f"--embedder-option model: must have at most {limits.MODEL_CHARACTERS} characters")
    return {_OF_SERVER[name]: value for name, value in options.items()} | {"vector_dimension": int(dimension)}
