"""The settings: which profile they select, where local stores are, and which names and values are refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from operations import settings
from operations.settings import PREFIX, Settings, SettingsError
from operations.settings.places import places
from tests.support.environment import clear_settings, load_settings

pytestmark = pytest.mark.unit

MYSQL = "mysql+pymysql://rag:hush@db:3307/rag?ssl_key=hush"
S3 = {"OBJECT_STORE": "http://u:hush@s3:9000", "OBJECT_STORE_ACCESS_KEY": "hush", "OBJECT_STORE_SECRET_KEY": "hush"}
SERVERS = {"DATABASE_URL": MYSQL, "KAFKA_BOOTSTRAP_SERVERS": "k:9092", "MILVUS_URI": "http://u:hush@milvus:19530", **S3}
STORES: dict[str, Callable[[Settings], object]] = {
    "DATABASE_URL": lambda loaded: loaded.database,
    "KAFKA_BOOTSTRAP_SERVERS": lambda loaded: loaded.kafka,
    "MILVUS_URI": lambda loaded: loaded.milvus_lite,
    "OBJECT_STORE": lambda loaded: loaded.objects,
}


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return clear_settings(monkeypatch, tmp_path)


# The profile


def test_nothing_set_keeps_every_store_in_the_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_settings(monkeypatch)
    assert (loaded.services_since, loaded.kafka) == (None, None)
    assert loaded.database.database == "rag-outbox-data/metadata.db"
    assert loaded.milvus_lite == Path("rag-outbox-data/vectors.db")
    assert loaded.objects == Path("rag-outbox-data/objects/rag-knowledge-base")


@pytest.mark.parametrize("server", STORES)
def test_one_server_makes_every_other_store_required(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {name: value for name, value in SERVERS.items() if name.startswith(server)}
    loaded = load_settings(monkeypatch, **given)
    assert loaded.services_since == f"{PREFIX}{server}"
    for name, read in STORES.items():
        if name == server:
            read(loaded)
            continue
        with pytest.raises(
            SettingsError, match=rf"^{PREFIX}{name} is not set, .* since {PREFIX}{server} is set: set it"
        ):
            read(loaded)


def test_local_stores_may_be_written_out_in_the_services_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_settings(
        monkeypatch,
        PROFILE="services",
        DATABASE_URL="sqlite:////data/metadata.db",
        MILVUS_URI="file:///data/vectors%20of%20mine.db",
        OBJECT_STORE="file:///data/a%20b",
        KAFKA_BOOTSTRAP_SERVERS="k:9092",
    )
    loaded.require_all()
    assert loaded.milvus_lite == Path("/data/vectors of mine.db")
    assert loaded.objects == Path("/data/a b/rag-knowledge-base")


def test_local_urls_alone_do_not_select_the_services_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_settings(monkeypatch, DATABASE_URL="sqlite:////data/x.db", OBJECT_STORE="file:///data")
    assert loaded.services_since is None
    loaded.require_all()


def test_embedded_profile_keeps_what_is_not_set_local(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_settings(monkeypatch, PROFILE="embedded", DATABASE_URL=MYSQL, MILVUS_URI="http://milvus:19530")
    assert loaded.objects == Path("rag-outbox-data/objects/rag-knowledge-base")
    assert loaded.kafka is None


def test_services_profile_without_a_store_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        SettingsError, match=f"DATABASE_URL is not set, and the profile is services since {PREFIX}PROFILE"
    ):
        load_settings(monkeypatch, PROFILE="services").require_all()


def test_embedded_profile_with_kafka_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=f"{PREFIX}PROFILE is embedded, and {PREFIX}KAFKA_BOOTSTRAP_SERVERS is set"):
        load_settings(monkeypatch, PROFILE="embedded", KAFKA_BOOTSTRAP_SERVERS="k:9092")


def test_places_name_every_store_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    assert places(load_settings(monkeypatch, **SERVERS)) == {
        "database": "mysql+pymysql://rag@db:3307/rag",
        "kafka": "k:9092, topics rag.*",
        "milvus": "http://milvus:19530, collection rag_vectors",
        "object_store": "http://s3:9000, bucket rag-knowledge-base",
    }


# Names


@pytest.mark.parametrize(
    "name", ["RAG_OUTBX_DATA_DIR", "RAGOUTBOX_DATA_DIR", "RAG_OUTBOXDATA_DIR", "rag_outbox_data_dir"]
)
@pytest.mark.parametrize("place", ["environment", "file"])
def test_misspelt_prefix_is_refused(name: str, place: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    if place == "environment":
        monkeypatch.setenv(name, "x")
    else:
        (folder / ".env").write_text(f"{name}=x\n")
    with pytest.raises(SettingsError, match=f"^unknown setting {name}; did you mean RAG_OUTBOX_DATA_DIR\\?$"):
        settings.load()


def test_misspelt_prefix_of_a_kafka_property_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_OUTBX_KAFKA_SECURITY_PROTOCOL", "SSL")
    with pytest.raises(SettingsError, match="; did you mean RAG_OUTBOX_KAFKA_SECURITY_PROTOCOL"):
        load_settings(monkeypatch, KAFKA_BOOTSTRAP_SERVERS="k:9092")


@pytest.mark.parametrize(
    "name", ["CONNECT_KAFKA_URL", "DATABASE_URL", "AIRFLOW_DATABASE_URL", "OUTBOX_URL", "RAG_OUTPUT", "RAG_DATA_DIR"]
)
def test_variable_of_another_program_is_ignored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "x")
    settings.load()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("BOOTSTRAP_SERVER", "k:9092", "librdkafka has no property bootstrap.server; did you mean bootstrap.servers?"),
        ("SECURTY_PROTOCOL", "SSL", "librdkafka has no property securty.protocol; did you mean security.protocol?"),
        ("COLOUR", "red", "librdkafka has no property colour"),
        ("SECURITY_PROTOCOL", "SSH", "librdkafka refuses it for security.protocol"),
        ("SESSION_TIMEOUT_MS", "soon", "librdkafka refuses it for session.timeout.ms"),
    ],
)
def test_property_that_kafka_does_not_have_is_refused(
    name: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(monkeypatch, KAFKA_BOOTSTRAP_SERVERS="k:9092", **{f"KAFKA_{name}": value})
    assert str(refused.value) == f"{PREFIX}KAFKA_{name}: {reason}"


def test_kafka_property_needs_no_file_and_no_server_to_be_checked(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    loaded = load_settings(
        monkeypatch,
        KAFKA_BOOTSTRAP_SERVERS="k:9092",
        KAFKA_SECURITY_PROTOCOL="ssl",
        KAFKA_SSL_CA_LOCATION="/gone",
        KAFKA_SESSION_TIMEOUT_MS="6000",
    )
    assert loaded.kafka == {
        "bootstrap.servers": "k:9092",
        "security.protocol": "ssl",
        "ssl.ca.location": "/gone",
        "session.timeout.ms": "6000",
    }
    assert capfd.readouterr() == ("", "")


# Paths


@pytest.mark.parametrize("place", ["environment", "file"])
def test_home_is_expanded_in_the_data_folder(place: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    if place == "environment":
        monkeypatch.setenv(f"{PREFIX}DATA_DIR", "~/rag")
    else:
        (folder / ".env").write_text(f"{PREFIX}DATA_DIR=~/rag\n")
    assert settings.load().data_dir == Path("/home/somebody/rag")


@pytest.mark.parametrize("name", ["MILVUS_URI", "OBJECT_STORE"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("file://relative/x", "a file URL needs an absolute path, and three slashes: "),
        ("file:relative/x", "a file URL needs an absolute path, and three slashes: "),
        ("file://~/x", "a file URL needs an absolute path, and three slashes: "),
        ("file:///x?y", "in a file URL, write %3F for a question mark and %23 for #"),
        ("file:///x#y", "in a file URL, write %3F for a question mark and %23 for #"),
        ("http://", "must be "),
        ("http://[x", "must be "),
        ("x", "must be "),
    ],
)
def test_url_that_would_mean_something_else_is_refused(
    name: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(monkeypatch, **{name: value})
    assert str(refused.value).startswith(f"{PREFIX}{name}: {reason}")
