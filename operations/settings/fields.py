"""The settings of a process, from RAG_OUTBOX_… variables or `.env`. Without any, the embedded profile runs."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

from dotenv import dotenv_values
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from operations.settings.embedder_fields import EmbedderSettings, expand
from schema import collection
from schema.database.connection import TIMEOUT_SECONDS
from schema.object_store import layout
from schema.outage import LEAVE_AFTER_SECONDS

if TYPE_CHECKING:
    from sqlalchemy import URL

PREFIX = "RAG_OUTBOX_"


class SettingsError(Exception):
    """Raised when a setting is unknown, missing or invalid; the message names the variable."""


class Settings(EmbedderSettings):
    """Every setting with its unit and default; `docs/settings.md` is made from it."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True)

    profile: Literal["embedded", "services"] | None = Field(
        default=None,
        description="Whether a store that is not set is a local one (`embedded`) or an error (`services`).",
        json_schema_extra={"unit": "`embedded` or `services`", "unset": "`services` if a server is set"},
    )
    data_dir: Path = Field(
        default=Path("rag-outbox-data"),
        description="Where the embedded stores keep their files.",
        json_schema_extra={"unit": "folder"},
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="The metadata database: MySQL 8.0.19 or later, or SQLite.",
        json_schema_extra={"unit": "mysql+pymysql://… or sqlite:////path", "unset": "SQLite in the data folder"},
    )
    database_timeout_seconds: float = Field(
        default=TIMEOUT_SECONDS,
        ge=2,  # a wait for a lock must end first, after at least 1 second
        description="How long a call of MySQL may stay without an answer before it fails; `init`, `status` and "
        "`history check` have no limit.",
        json_schema_extra={"unit": "seconds, at least 2"},
    )
    leave_after_seconds: float = Field(
        default=LEAVE_AFTER_SECONDS,
        gt=0,
        description="How long a relay or consumer may be without its database before it leaves its group, so that "
        "others take over its lanes or partitions.",
        json_schema_extra={"unit": "seconds"},
    )
    kafka_bootstrap_servers: str | None = Field(
        default=None,
        description="The Kafka cluster, which only the services profile has.",
        json_schema_extra={"unit": "host:port,…", "unset": "no Kafka"},
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
        description="The Milvus server, or the files of Milvus Lite.",
        json_schema_extra={
            "unit": "http(s)://host:port or file:///path/vectors.db",
            "unset": "Milvus Lite in the data folder",
        },
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
    store_timeout_seconds: float = Field(
        default=30.0,
        ge=1.0,
        le=600.0,
        description="How long one request to Milvus or to the object store may take. A failed request is made again.",
        json_schema_extra={"unit": "seconds, 1 to 600"},
    )
    task_lease_seconds: float = Field(
        default=60.0,
        ge=2.0,
        le=3_600.0,
        description="How long a worker that died keeps its task; then another worker takes it.",
        json_schema_extra={"unit": "seconds, 2 to 3,600"},
    )
    backup_access_key: str | None = Field(
        default=None,
        description="Access key for a server that `backup --to` and `--from` name.",
        json_schema_extra={"unit": "text", "unset": "that of the object store"},
    )
    backup_secret_key: SecretStr | None = Field(
        default=None,
        description="Secret key for a server that `backup --to` and `--from` name.",
        json_schema_extra={"unit": "text", "unset": "that of the object store"},
    )
    mysql_client_dir: Path | None = Field(
        default=None,
        description="Where `backup` finds MySQL's own `mysqldump` and `mysql`, version 8.0 or later.",
        json_schema_extra={"unit": "folder", "unset": "found on `PATH`"},
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

    console_token_sha256: str | None = Field(
        default=None,
        description="SHA-256 of the token that lets an operator change something in the console, or read it from "
        "another machine. `rag-outbox serve --new-token` makes both.",
        pattern="^[0-9a-f]{64}$",
        json_schema_extra={"unit": "64 hexadecimal digits in lower case", "unset": "the console only reads"},
    )

    tracing: bool = Field(
        default=False,
        description="Whether relay, consumers and `run` export OpenTelemetry spans of events that carry a trace. Where "
        "to: see `OTEL_EXPORTER_OTLP_ENDPOINT`. Needs the extra `otel`.",
        json_schema_extra={"unit": "`true` or `false`"},
    )

    retention_operation_logs_days: int = Field(
        default=365,
        ge=0,
        le=36_500,
        description="How long rows of `operation_logs` are kept.",
        json_schema_extra={"unit": "days; 0: for ever"},
    )
    retention_deleted_documents_days: int = Field(
        default=30,
        ge=0,
        le=36_500,
        description="How long title, labels and other metadata of a deleted document are kept.",
        json_schema_extra={"unit": "days; 0: for ever"},
    )
    retention_dead_letters_days: int = Field(
        default=90,
        ge=0,
        le=36_500,
        description="How long dead letters are kept after they were closed; open ones stay.",
        json_schema_extra={"unit": "days; 0: for ever"},
    )
    retention_processing_tasks_days: int = Field(
        default=30,
        ge=0,
        le=36_500,
        description="How long tasks are kept after they ended.",
        json_schema_extra={"unit": "days; 0: for ever"},
    )
    retention_archives_days: int = Field(
        default=30,
        ge=0,
        le=36_500,
        description="How long the archive in the object store keeps texts and vectors of removed chunks. Not less than "
        "the age of the oldest backup of the database that you would restore.",
        json_schema_extra={"unit": "days; 0: for ever"},
    )

    @field_validator("data_dir")
    @classmethod
    def _expand_data_dir(cls, value: Path) -> Path:
        return expand(value)

    @property
    def services_since(self) -> str | None:
        """The variable that makes the profile `services`; None in the embedded profile."""
        if self.profile is not None:
            return f"{PREFIX}PROFILE" if self.profile == "services" else None
        database = self.database_url.get_secret_value() if self.database_url else ""
        servers = {
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka_bootstrap_servers is not None,
            "DATABASE_URL": bool(database) and not database.startswith("sqlite"),
            "MILVUS_URI": _is_server(self.milvus_uri),
            "OBJECT_STORE": _is_server(self.object_store),
        }
        return next((f"{PREFIX}{name}" for name, is_set in servers.items() if is_set), None)

    def require_all(self) -> None:
        """Raises SettingsError if the profile is `services` and a store is not set."""
        _ = self.database, self.kafka, self.milvus_lite, self.objects

    @property
    def kafka(self) -> dict[str, str] | None:
        """librdkafka's properties: the servers and every RAG_OUTBOX_KAFKA_<PROPERTY>, with underscores for dots.

        None in the embedded profile. Raises SettingsError if no servers are set in the services profile.
        """
        if self.kafka_bootstrap_servers is None:
            self._allow_local("KAFKA_BOOTSTRAP_SERVERS")
            return None
        properties = kafka_properties({**dotenv_values(".env"), **os.environ})
        return {**properties, "bootstrap.servers": self.kafka_bootstrap_servers}

    @property
    def collection_alias(self) -> str:
        return collection.alias_of(self.namespace)

    @property
    def bucket(self) -> str:
        return self.object_store_bucket or layout.bucket_of(self.namespace)

    @property
    def database(self) -> "URL":
        """The metadata database. Raises SettingsError."""
        from sqlalchemy import URL, make_url  # slow to import
        from sqlalchemy.exc import ArgumentError

        if self.database_url is None:
            self._allow_local("DATABASE_URL", "sqlite:////path/metadata.db")
            return URL.create("sqlite", database=str(self.data_dir / "metadata.db"))
        try:
            return make_url(self.database_url.get_secret_value())
        except (ArgumentError, ValueError):  # ValueError: the port is not a number
            raise SettingsError(f"{PREFIX}DATABASE_URL: not a usable SQLAlchemy URL") from None

    @property
    def milvus_lite(self) -> Path | None:
        """Where Milvus Lite keeps its files, or None when Milvus is a server. Raises SettingsError."""
        if self.milvus_uri is None:
            self._allow_local("MILVUS_URI", "file:///path/vectors.db")
            return self.data_dir / "vectors.db"
        return None if _is_server(self.milvus_uri) else _path_of(self.milvus_uri)

    @property
    def objects(self) -> Path | None:
        """The bucket's folder, or None when the object store is a server. Raises SettingsError."""
        if self.object_store is None:
            self._allow_local("OBJECT_STORE", "file:///path")
            return self.data_dir / "objects" / self.bucket
        return None if _is_server(self.object_store) else _path_of(self.object_store) / self.bucket

    def _allow_local(self, name: str, local: str | None = None) -> None:
        """Raises SettingsError in the services profile: a store that is not set must not become a local one there."""
        if self.services_since is None:
            return
        or_local = f" (a local one is {local})" if local else ""
        embedded = f"{PREFIX}PROFILE=embedded"
        raise SettingsError(
            f"{PREFIX}{name} is not set, and the profile is services since {self.services_since} is set: set it"
            f"{or_local}, or set {embedded} to keep what is not set in the data folder"
        )


def kafka_properties(given: Mapping[str, str | None]) -> dict[str, str]:
    """librdkafka's property → value, of the variables RAG_OUTBOX_KAFKA_<PROPERTY>."""
    prefix = f"{PREFIX}KAFKA_"
    named = {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix) and value}
    return {name.lower().replace("_", "."): value for name, value in named.items()}


def _is_server(url: str | None) -> bool:
    return url is not None and urlsplit(url).scheme in {"http", "https"}


def _path_of(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))
