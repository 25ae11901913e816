"""Settings, read once a process from RAG_OUTBOX_… variables or `.env`. Nothing set means the embedded profile."""

import difflib
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, DotEnvSettingsSource, SettingsConfigDict

from schema import limits
from schema.kafka.names import Names
from schema.object_store import layout

PREFIX = "RAG_OUTBOX_"
_BUCKET = re.compile(r"(?=.{3,63}$)(?!\d+\.\d+\.\d+\.\d+$)[a-z0-9]+(?:(?:\.|-+)[a-z0-9]+)*")
_OPEN_PREFIXES = tuple(f"{PREFIX}{name}_" for name in ("KAFKA", "SERVERS", "TEST"))  # librdkafka's, and not ours


class SettingsError(Exception):
    """Raised when a setting is unknown or has a value that cannot be used; the message names the variable."""


class Settings(BaseSettings):
    """Every setting with its unit and default."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True)

    data_dir: Path = Field(default=Path("rag-outbox-data"), description="folder of the embedded stores")
    namespace: str = Field(
        default="rag", description="first part of the names of topics and groups", pattern="^[A-Za-z0-9_-]{1,64}$"
    )
    database_url: SecretStr | None = Field(
        default=None, description="SQLAlchemy URL; default: SQLite in the data folder"
    )
    kafka_bootstrap_servers: str | None = Field(default=None, description="host:port,…; default: no Kafka, embedded")
    milvus_uri: str | None = Field(
        default=None, description="http(s)://host:port; default: Milvus Lite in the data folder"
    )
    milvus_token: SecretStr | None = Field(default=None, description="user:password or API key")
    object_store: str | None = Field(
        default=None, description="file:///path or http(s)://host:port; default: the data folder"
    )
    object_store_access_key: str | None = None
    object_store_secret_key: SecretStr | None = None
    object_store_bucket: str = layout.BUCKET
    embedding_model: str = Field(
        default="wordllama-l2_supercat-256", description="where the vectors come from", max_length=128
    )
    vector_dimension: int = Field(default=256, ge=1, le=limits.VECTOR_DIMENSION, description="numbers in a vector")

    @property
    def kafka(self) -> dict[str, str] | None:
        """librdkafka's properties: the servers, and every RAG_OUTBOX_KAFKA_<PROPERTY>, dots as underscores."""
        if self.kafka_bootstrap_servers is None:
            return None
        given = {**dotenv_values(".env"), **os.environ}
        prefix = f"{PREFIX}KAFKA_"
        named = {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix) and value}
        properties = {name.lower().replace("_", "."): value for name, value in named.items()}
        return {**properties, "bootstrap.servers": self.kafka_bootstrap_servers}

    @property
    def names(self) -> Names:
        return Names(self.namespace)

    @property
    def database(self) -> str:
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir / 'metadata.db'}"

    @property
    def milvus_lite(self) -> Path | None:
        """Where Milvus Lite keeps its files, or None when Milvus is a server."""
        return self.data_dir / "vectors.db" if self.milvus_uri is None else None

    @property
    def objects(self) -> Path | None:
        """The bucket's folder, or None when the object store is a server."""
        if self.object_store is None:
            return self.data_dir / "objects" / self.object_store_bucket
        url = urlsplit(self.object_store)
        return Path(unquote(url.path)) / self.object_store_bucket if url.scheme == "file" else None


def load() -> Settings:
    """The process's settings; raises SettingsError."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    given = {name.upper(): value for name, value in DotEnvSettingsSource(Settings).env_vars.items()} | os.environ
    for name, value in given.items():
        if not name.startswith(PREFIX) or name.startswith(_OPEN_PREFIXES):
            continue
        if name not in known:
            near = difflib.get_close_matches(name.removeprefix(PREFIX).lower(), Settings.model_fields, 1)
            hint = f"; did you mean {PREFIX}{near[0].upper()}?" if near else ""
            raise SettingsError(f"unknown setting {name}{hint}")
        if not value:  # a variable that somebody forgot to fill must not mean the embedded profile
            raise SettingsError(f"{name} is empty: give it a value, or unset it")
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise SettingsError(f"{PREFIX}{str(first['loc'][0]).upper()}: {first['msg']}") from None
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    if "?" in str(settings.data_dir):
        raise SettingsError(f"{PREFIX}DATA_DIR: must not contain a question mark, since it becomes part of a URL")
    if settings.milvus_uri is not None and urlsplit(settings.milvus_uri).scheme not in {"http", "https"}:
        raise SettingsError(f"{PREFIX}MILVUS_URI: must start with http:// or https://")
    if settings.object_store is not None:
        url = urlsplit(settings.object_store)
        if url.scheme not in {"file", "http", "https"} or (url.scheme != "file" and not url.hostname):
            raise SettingsError(f"{PREFIX}OBJECT_STORE: must be file:///path or http(s)://host:port")
        if url.scheme != "file" and not (settings.object_store_access_key and settings.object_store_secret_key):
            raise SettingsError(
                f"{PREFIX}OBJECT_STORE: a server needs {PREFIX}OBJECT_STORE_ACCESS_KEY and …_SECRET_KEY"
            )
    if _BUCKET.fullmatch(settings.object_store_bucket) is None:
        raise SettingsError(
            f"{PREFIX}OBJECT_STORE_BUCKET: must be 3 to 63 lower-case letters, digits, dots and hyphens, begin and end "
            "with a letter or digit, as must what stands between two dots, and be no IP address"
        )
