"""Refuses values that are wrong by themselves, without a look at a server or a folder that is not there yet."""

import re
from urllib.parse import urlsplit

from pydantic import SecretStr

from operations.settings.embedder_fields import BUILT_IN_MODELS
from operations.settings.fields import PREFIX, Settings, SettingsError

_BUCKET = re.compile(r"(?=.{3,63}$)(?!\d+\.\d+\.\d+\.\d+$)[a-z0-9]+(?:(?:\.|-+)[a-z0-9]+)*")


def check(settings: Settings) -> None:
    """Raises SettingsError, which names the variable."""
    if settings.profile == "embedded" and settings.kafka_bootstrap_servers is not None:
        raise SettingsError(
            f"{PREFIX}PROFILE is embedded, and {PREFIX}KAFKA_BOOTSTRAP_SERVERS is set: unset one of them"
        )
    if settings.data_dir.exists() and not settings.data_dir.is_dir():
        raise SettingsError(f"{PREFIX}DATA_DIR: {settings.data_dir} is not a folder")
    if settings.milvus_uri is not None:
        _check_url("MILVUS_URI", settings.milvus_uri, "http(s)://host:port or file:///path/vectors.db")
    if settings.object_store is not None:
        _check_url("OBJECT_STORE", settings.object_store, "file:///path or http(s)://host:port")
        is_server = urlsplit(settings.object_store).scheme != "file"
        if is_server and not (settings.object_store_access_key and settings.object_store_secret_key):
            raise SettingsError(
                f"{PREFIX}OBJECT_STORE: a server needs {PREFIX}OBJECT_STORE_ACCESS_KEY and …_SECRET_KEY"
            )
    if settings.database_url is not None:
        _check_database(settings)
    _check_embedder(settings)
    if _BUCKET.fullmatch(settings.bucket) is None:
        derived = f" (it is {settings.bucket!r}, from the namespace)" if settings.object_store_bucket is None else ""
        raise SettingsError(
            f"{PREFIX}OBJECT_STORE_BUCKET{derived}: must be 3 to 63 lower-case letters, digits, dots and hyphens; each "
            "part between dots must begin and end with a letter or digit; an IP address is not allowed"
        )


def _check_database(settings: Settings) -> None:
    url = settings.database
    if url.drivername not in {"mysql+pymysql", "sqlite", "sqlite+pysqlite"}:
        raise SettingsError(f"{PREFIX}DATABASE_URL: must start with mysql+pymysql:// or sqlite:///")
    if url.get_backend_name() == "sqlite" and url.database in {None, "", ":memory:"}:
        raise SettingsError(f"{PREFIX}DATABASE_URL: must name a file; a database in memory ends with the process")


def _check_embedder(settings: Settings) -> None:
    kind = settings.embedder
    built_in = BUILT_IN_MODELS.get(kind or "")
    if built_in is not None:
        name, dimension = built_in
        if settings.embedding_model != name:
            raise SettingsError(
                f"{PREFIX}EMBEDDING_MODEL: is {settings.embedding_model!r}, but {PREFIX}EMBEDDER={kind} makes vectors "
                f"of {name!r}: unset one of them"
            )
        if settings.vector_dimension != dimension:
            raise SettingsError(
                f"{PREFIX}VECTOR_DIMENSION: {name} has {dimension} dimensions, not {settings.vector_dimension}"
            )
    owners = {"url": "openai", "key": "openai", "model": "openai", "query_prefix": "openai"}
    owners |= {"passage_prefix": "openai", "folder": "bge-m3", "threads": "bge-m3"}
    for field, owner in owners.items():
        if getattr(settings, f"embedder_{field}") is not None and kind != owner:
            raise SettingsError(f"{PREFIX}EMBEDDER_{field.upper()}: is only for {PREFIX}EMBEDDER={owner}")
    _check_key("OTHER_EMBEDDER_KEY", settings.other_embedder_key)
    if kind == "openai":
        _check_openai(settings)


def _check_openai(settings: Settings) -> None:
    for field in ("embedder_url", "embedding_model", "vector_dimension"):
        if field not in settings.model_fields_set:
            raise SettingsError(f"{PREFIX}{field.upper()} is not set: {PREFIX}EMBEDDER=openai needs it")
    url = settings.embedder_url or ""
    _check_url("EMBEDDER_URL", url, "http(s)://host:port/v1")
    parts = urlsplit(url)
    if parts.scheme == "file" or "@" in parts.netloc or parts.query or parts.fragment:
        raise SettingsError(
            f"{PREFIX}EMBEDDER_URL: must be http(s)://host:port/v1, without a user and a query; a key is "
            f"{PREFIX}EMBEDDER_KEY"
        )
    _check_key("EMBEDDER_KEY", settings.embedder_key)


def _check_key(name: str, given: SecretStr | None) -> None:
    key = given.get_secret_value() if given else "-"
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise SettingsError(f"{PREFIX}{name}: must be printable ASCII without spaces")


def _check_url(name: str, value: str, form: str) -> None:
    try:
        url = urlsplit(value)
    except ValueError:  # for instance, an address in brackets that is none
        raise SettingsError(f"{PREFIX}{name}: must be {form}") from None
    if url.scheme == "file":
        if url.netloc not in {"", "localhost"} or not url.path.startswith("/"):
            raise SettingsError(f"{PREFIX}{name}: a file URL needs an absolute path, and three slashes: {form}")
        if url.query or url.fragment:
            raise SettingsError(f"{PREFIX}{name}: in a file URL, write %3F for a question mark and %23 for #")
    elif url.scheme not in {"http", "https"} or not url.hostname:
        raise SettingsError(f"{PREFIX}{name}: must be {form}")
