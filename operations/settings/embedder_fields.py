"""The settings of the embedding model and of what makes its vectors."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings

from schema import limits

BUILT_IN_MODELS = {"wordllama": ("wordllama-l2_supercat-256", 256), "bge-m3": ("bge-m3", 1_024)}  # name, dimension


class EmbedderSettings(BaseSettings):
    """The part of `Settings` that `operations/embedders.py` reads."""

    embedding_model: str = Field(
        default="wordllama-l2_supercat-256",
        description="The model that all vectors come from. `init` stores it; `rebuild milvus --embedder` changes it. "
        "`RAG_OUTBOX_EMBEDDER` `wordllama` and `bge-m3` set it.",
        max_length=limits.MODEL_CHARACTERS,
        json_schema_extra={"unit": f"at most {limits.MODEL_CHARACTERS} characters"},
    )
    vector_dimension: int = Field(
        default=256,
        ge=1,
        le=limits.VECTOR_DIMENSION,
        description="Length of a vector of that model. `init` stores it; `rebuild milvus --embedder` changes it. "
        "`RAG_OUTBOX_EMBEDDER` `wordllama` and `bge-m3` set it.",
        json_schema_extra={"unit": f"numbers, 1 to {limits.VECTOR_DIMENSION:,}"},
    )
    embedder: Literal["wordllama", "bge-m3", "openai", "none"] | None = Field(
        default=None,
        description="What turns text into vectors: the small model of this package, BGE-M3 (extra `bge-m3`), a server "
        "that speaks OpenAI's `/v1/embeddings`, or nothing: then every vector must be given.",
        json_schema_extra={
            "unit": "`wordllama`, `bge-m3`, `openai` or `none`",
            "unset": "`wordllama` if the model is its own, else `none`",
        },
    )
    embedder_url: str | None = Field(
        default=None,
        description="`openai`: the server, up to `/embeddings`.",
        json_schema_extra={"unit": "http(s)://host:port/v1", "unset": "none"},
    )
    embedder_key: SecretStr | None = Field(
        default=None,
        description="`openai`: the key for that server.",
        json_schema_extra={"unit": "text", "unset": "no key"},
    )
    other_embedder_key: SecretStr | None = Field(
        default=None,
        description="The key for the server of the other model, from `rebuild milvus --embedder` on until the previous "
        "collection is removed. That command and `consume milvus` need it.",
        json_schema_extra={"unit": "text", "unset": "no key"},
    )
    embedder_model: str | None = Field(
        default=None,
        description="`openai`: the server's name of the model.",
        json_schema_extra={"unit": "text", "unset": "`RAG_OUTBOX_EMBEDDING_MODEL`"},
    )
    embedder_query_prefix: str | None = Field(
        default=None,
        description="`openai`: what stands in front of a question; e5 wants `query: `, with the space.",
        json_schema_extra={"unit": "text", "unset": "nothing"},
    )
    embedder_passage_prefix: str | None = Field(
        default=None,
        description="`openai`: what stands in front of each text of a document; e5 wants `passage: `, with the space.",
        json_schema_extra={"unit": "text", "unset": "nothing"},
    )
    embedder_timeout_seconds: float = Field(
        default=30.0,
        ge=0.1,
        le=600.0,
        description="`openai`: how long the server may be silent. A failed request is made up to 5 times.",
        json_schema_extra={"unit": "seconds, 0.1 to 600"},
    )
    embedder_folder: Path | None = Field(
        default=None,
        description="`bge-m3`: the folder with the files of the model.",
        json_schema_extra={"unit": "folder", "unset": "`models` in the data folder, filled from the bucket"},
    )
    embedder_threads: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="`bge-m3`: threads of one pass of the model.",
        json_schema_extra={"unit": "threads, 1 to 256", "unset": "one per core"},
    )
    embedder_max_tokens: int = Field(
        default=8_192,
        ge=16,
        le=8_192,
        description="`bge-m3`: where a longer text is cut. Memory grows with the square of it: 4 GiB at 8,192.",
        json_schema_extra={"unit": "tokens, 16 to 8,192"},
    )
    embedding_cache_rows: int = Field(
        default=200_000,
        ge=0,
        description="`bge-m3` and `openai`: how many embeddings the table `embedding_cache` keeps; 0 turns it off.",
        json_schema_extra={"unit": "texts; 4 KiB each at 1,024 dimensions, and 1 to 4 KiB for sparse weights"},
    )

    @model_validator(mode="before")
    @classmethod
    def _name_model(cls, given: Any) -> Any:
        """A built-in embedder has one model, which nobody needs to name."""
        built_in = BUILT_IN_MODELS.get(str(given.get("embedder"))) if isinstance(given, dict) else None
        if built_in is None:
            return given
        name, dimension = built_in
        return {"embedding_model": name, "vector_dimension": dimension} | given

    @field_validator("embedder_folder")
    @classmethod
    def _expand_folder(cls, value: Path | None) -> Path | None:
        return None if value is None else expand(value)


def expand(path: Path) -> Path:
    """The path without `~`: nobody has expanded that of a .env file or of a container's environment."""
    try:
        return path.expanduser()
    except RuntimeError as error:  # there is no such user
        raise ValueError(str(error)) from None
