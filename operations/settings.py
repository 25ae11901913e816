"""Settings of a process, read once from RAG_OUTBOX_… variables or `.env`. Without any, the embedded profile runs."""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, DotEnvSettingsSource, SettingsConfigDict

from schema import collection, limits
from schema.object_store import layout

PREFIX = "RAG_OUTBOX_"
_BUCKET = re.compile(r"(?=.{3,63}$)(?!\d+\.\d+\.\d+\.\d+$)[a-z0-9]+(?:(?:\.|-+)[a-z0-9]+)*")
_OPEN_PREFIXES = tuple(f"{PREFIX}{name}_" for name in ("KAFKA", "SERVERS", "TEST"))  # any name may follow these


class SettingsError(Exception):
    """Raised when a setting is unknown or its value is invalid; the message names the variable."""


class Settings(BaseSettings):
    """Every setting with its unit and default; `docs/settings.md` is made from it."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True)

    data_dir: Path = Field(
        default=Path("rag-outbox-data"),
        description="Where the embedded stores keep their files.",
        json_schema_extra={"unit": "folder"},
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="The metadata database: MySQL 8.0 or later, or SQLite.",
        json_schema_extra={"unit": "SQLAlchemy URL", "unset": "SQLite in the data folder"},
    )
    kafka_bootstrap_servers: str | None = Field(
        default=None,
        description="The Kafka cluster. Setting it selects the services profile.",
        json_schema_extra={"unit": "host:port,…", "unset": "no Kafka: the embedded profile"},
    )
    namespace: str = Field(
        default="rag",
        description="First part of the names of topics, consumer groups, collection and bucket, for systems that "
        "share servers. It must not change after `init`.",
        pattern="^[A-Za-z0-9_-]{1,64}$",
        json_schema_extra={"unit": "1 to 64 letters, digits, `-` and `_`"},
    )
    milvus_uri: str | None = Field(
        default=None,
        description="The Milvus server.",
        json_schema_extra={"unit": "http(s)://host:port", "unset": "Milvus Lite in the data folder"},
    )
    milvus_token: SecretStr | None = Field(
        default=None,
        description="Credentials for the Milvus server.",
        json_schema_extra={"unit": "user:password, or an API key", "unset": "no credentials"},
    )
    object_store: str | None = Field(
        default=None,
        description="A server that speaks S3, or a folder that holds buckets.",
        json_schema_extra={"unit": "http(s)://host:port or file:///path", "unset": "`objects` in the data folder"},
    )
    object_store_access_key: str | None = Field(
        default=None,
        description="Access key for the S3 server, which needs one.",
        json_schema_extra={"unit": "text", "unset": "none"},
    )
    object_store_secret_key: SecretStr | None = Field(
        default=None,
        description="Secret key for the S3 server, which needs one.",
        json_schema_extra={"unit": "text", "unset": "none"},
    )
    object_store_bucket: str | None = Field(
        default=None,
        description="The bucket of this system.",
        json_schema_extra={
            "unit": "3 to 63 lower-case letters, digits, `.` and `-`",
            "unset": f"`<namespace>-knowledge-base`: `{layout.bucket_of('rag')}`",
        },
    )
    embedding_model: str = Field(
        default="wordllama-l2_supercat-256",
        description="The model that all vectors come from. `init` stores it, and it cannot change afterwards.",
        max_length=128,
        json_schema_extra={"unit": "at most 128 characters"},
    )
    vector_dimension: int = Field(
        default=256,
        ge=1,
        le=limits.VECTOR_DIMENSION,
        description="Length of a vector of that model. `init` stores it, and it cannot change afterwards.",
        json_schema_extra={"unit": f"numbers, 1 to {limits.VECTOR_DIMENSION:,}"},
    )

    store_timeout_seconds: float = Field(
        default=30.0,
        ge=1.0,
        le=600.0,
        description="How long one request to Milvus or to the object store may take. A failed request is made again.",
        json_schema_extra={"unit": "seconds, 1 to 600"},
    )

    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65_535,
        description="Where a long-running process serves `/metrics`, `/healthz` and `/readyz`; 0 turns it off.",
        json_schema_extra={
            "unit": "port",
            "unset": "the first free one of 9470 to 9479; embedded: off",
        },
    )
    metrics_host: str = Field(
        default="127.0.0.1",
        description="The address that it listens on; `0.0.0.0` lets other machines read it, and it has no password.",
        json_schema_extra={"unit": "address"},
    )

    tracing: bool = Field(
        default=False,
        description="Whether relay, consumers and `run` export OpenTelemetry spans of events that carry a trace. Where "
        "to: see `OTEL_EXPORTER_OTLP_ENDPOINT`. Needs the extra `otel`.",
        json_schema_extra={"unit": "`true` or `false`"},
    )

    @property
    def kafka(self) -> dict[str, str] | None:
        """librdkafka's properties: the servers and every RAG_OUTBOX_KAFKA_<PROPERTY>, with underscores for dots."""
        if self.kafka_bootstrap_servers is None:
            return None
        given = {**dotenv_values(".env"), **os.environ}
        prefix = f"{PREFIX}KAFKA_"
        named = {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix) and value}
        properties = {name.lower().replace("_", "."): value for name, value in named.items()}
        return {**properties, "bootstrap.servers": self.kafka_bootstrap_servers}

    @property
    def collection_alias(self) -> str:
        return collection.alias_of(self.namespace)

    @property
    def bucket(self) -> str:
        return self.object_store_bucket or layout.bucket_of(self.namespace)

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
            return self.data_dir / "objects" / self.bucket
        url = urlsplit(self.object_store)
        return Path(unquote(url.path)) / self.bucket if url.scheme == "file" else None


def load() -> Settings:
    """The process's settings; raises SettingsError."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    given = {name.upper(): value for name, value in DotEnvSettingsSource(Settings).env_vars.items()} | os.environ
    for name, value in given.items():
        if not name.startswith(PREFIX) or (name.startswith(_OPEN_PREFIXES) and name not in known):
            continue
        if name not in known:
            near = difflib.get_close_matches(name.removeprefix(PREFIX).lower(), Settings.model_fields, 1)
            hint = f"; did you mean {PREFIX}{near[0].upper()}?" if near else ""
            raise SettingsError(f"unknown setting {name}{hint}")
        if not value:  # an empty variable is a mistake, and must not select the embedded profile
            raise SettingsError(f"{name} is empty: give it a value, or unset it")
    _refuse_kafka_without_servers(given)
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = f"{PREFIX}{str(first['loc'][0]).upper()}"
        wrong = "must be true or false" if first["type"] == "bool_parsing" else first["msg"]
        raise SettingsError(f"{name}: {wrong}") from None
    _check(settings)
    return settings


def _refuse_kafka_without_servers(given: Mapping[str, str | None]) -> None:
    """A misspelt name of the bootstrap servers must not select the embedded profile."""
    servers = f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS"
    kafka = sorted(name for name in given if name.startswith(f"{PREFIX}KAFKA_"))
    if kafka and servers not in given:
        raise SettingsError(f"{kafka[0]} is set, but {servers} is not")


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
    if _BUCKET.fullmatch(settings.bucket) is None:
        derived = f" (it is {settings.bucket!r}, from the namespace)" if settings.object_store_bucket is None else ""
        raise SettingsError(
            f"{PREFIX}OBJECT_STORE_BUCKET{derived}: must be 3 to 63 lower-case letters, digits, dots and hyphens; each "
            "part between dots must begin and end with a letter or digit; an IP address is not allowed"
        )
