"""The compose file agrees with the code in settings, commands, users and versions; no test runs it in Docker."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from sqlalchemy import make_url

from compose.native import kafka as native_kafka
from compose.native import mysql as native_mysql
from compose.native import prometheus, versions
from operations import settings
from operations.cli.app import app
from operations.settings import PREFIX, Settings
from producer.processing.extract.formats import FORMATS

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "compose"
VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>\w+):-(?P<default>[^}]*)\}")

FILE: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
PROMETHEUS: dict[str, Any] = yaml.safe_load((COMPOSE / "prometheus" / "prometheus.yml").read_text())
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("rag-outbox:")]
USERS = {
    "init": "rag-owner",
    "operator": "rag-owner",
    "writer": "rag-writer",
    "relay": "rag-relay",
    "consumer-milvus": "rag-consumer",
    "consumer-minio": "rag-consumer",
    "worker": "rag-writer",
    "monitor": "rag-monitor",
    "reconcile": "rag-owner",
    "backup": "rag-backup",
}
SERVING = ("relay", "consumer-milvus", "consumer-minio", "worker", "monitor", "reconcile")


def environment(service: str) -> dict[str, str]:
    """The environment of the container when no variable is set."""
    given = SERVICES[service].get("environment", {})
    return {name: VARIABLE.sub(r"\g<default>", str(value)) for name, value in given.items()}


def settings_of(service: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Settings:
    monkeypatch.chdir(folder)  # without a .env
    for name, value in environment(service).items():
        monkeypatch.setenv(name, value)
    return settings.load()


@pytest.mark.parametrize("service", OURS)
def test_settings_of_each_process_are_known_and_valid(
    service: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert all(name.startswith(PREFIX) for name in environment(service))
    loaded = settings_of(service, monkeypatch, tmp_path)
    default = Settings.model_fields
    assert loaded.embedding_model == default["embedding_model"].default
    assert loaded.vector_dimension == default["vector_dimension"].default


STORES = {
    "database": [*USERS],
    "kafka": ["init", "operator", "backup", "relay", "consumer-milvus", "consumer-minio", "monitor", "reconcile"],
    "milvus_lite": ["init", "operator", "backup", "writer", "consumer-milvus", "reconcile"],
    "objects": ["init", "operator", "backup", "writer", "worker", "consumer-milvus", "consumer-minio", "reconcile"],
}


@pytest.mark.parametrize(
    ("store", "service"), [(store, service) for store, users in STORES.items() for service in users]
)
def test_each_process_has_the_stores_that_it_uses(
    store: str, service: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loaded = settings_of(service, monkeypatch, tmp_path)
    found = getattr(loaded, store)
    assert found is not None if store in {"database", "kafka"} else found is None, "it is a server"


def test_image_selects_the_services_profile() -> None:
    """A container that lost its variables must not fill a folder that ends with it."""
    [line] = [line for line in (COMPOSE / "Dockerfile").read_text().splitlines() if line.startswith("ENV")]
    assert "RAG_OUTBOX_PROFILE=services" in line.split()


@pytest.mark.parametrize("service", OURS)
def test_each_process_has_its_own_mysql_user(service: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = make_url(settings_of(service, monkeypatch, tmp_path).database)
    assert (url.username, url.host, url.database) == (USERS[service], "mysql", native_mysql.DATABASE)


def test_users_are_the_granted_ones_and_the_owner() -> None:
    granted = set(re.findall(r"CREATE USER IF NOT EXISTS '([^']+)'", (COMPOSE / "grants" / "grants.sql").read_text()))
    opened = set(re.findall(r"set_password (rag-\w+)", SERVICES["grants"]["command"][0]))
    assert granted == opened
    assert set(USERS.values()) | {"rag-exporter"} == granted | {environment("mysql")["MYSQL_USER"]}
    assert "--mysqld.username=rag-exporter" in SERVICES["mysqld-exporter"]["command"]


def test_passwords_match_on_both_sides() -> None:
    sides = {
        "rag-owner": environment("mysql")["MYSQL_PASSWORD"],
        **{
            f"rag-{name}": environment("grants")[f"{name.upper()}_PASSWORD"]
            for name in ("writer", "relay", "consumer", "monitor", "backup")
        },
    }
    for service, user in USERS.items():
        assert make_url(environment(service)[f"{PREFIX}DATABASE_URL"]).password == sides[user], service
    exporter = environment("mysqld-exporter")["MYSQLD_EXPORTER_PASSWORD"]
    assert exporter == environment("grants")["EXPORTER_PASSWORD"]
    assert environment("grants")["MYSQL_PWD"] == environment("mysql")["MYSQL_ROOT_PASSWORD"]
    store = environment("seaweedfs")
    assert environment("consumer-minio")[f"{PREFIX}OBJECT_STORE_ACCESS_KEY"] == store["AWS_ACCESS_KEY_ID"]
    assert environment("consumer-minio")[f"{PREFIX}OBJECT_STORE_SECRET_KEY"] == store["AWS_SECRET_ACCESS_KEY"]


@pytest.mark.parametrize("service", OURS)
def test_each_process_runs_a_valid_command(service: str) -> None:
    command = typer.main.get_command(app)
    arguments = SERVICES[service]["command"]
    if arguments == ["--help"]:
        return
    assert isinstance(command, typer.core.TyperGroup)
    with command.make_context("rag-outbox", list(arguments)) as context:
        name, found, rest = command.resolve_command(context, list(arguments))
        assert found is not None, name
        found.make_context(name, rest, parent=context)  # raises on arguments that the command does not take


def test_services_wait_only_for_health_or_completion() -> None:
    for name, service in SERVICES.items():
        for target, wait in service.get("depends_on", {}).items():
            if wait["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[target], f"{name} waits for {target}"
            else:
                assert wait["condition"] == "service_completed_successfully"
                assert SERVICES[target]["restart"] == "no", f"{name} waits for {target}"
            assert not SERVICES[target].get("profiles"), f"{name} waits for {target}"


def test_images_have_exact_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    images = {service["image"] for service in SERVICES.values()}
    assert all(re.fullmatch(r"[a-z/-]+:v?\d+\.\d+(\.\d+)?", image) for image in images), images
    assert f"apache/kafka:{versions.KAFKA}" in images
    assert f"rag-outbox:{project['version']}" in images
    bases = re.findall(r"^FROM (\S+)", (COMPOSE / "Dockerfile").read_text(), re.MULTILINE)
    assert set(bases) == {"python:3.13.13-slim-trixie"}
    clients = re.findall(r"^COPY --from=(mysql:\S+)", (COMPOSE / "Dockerfile").read_text(), re.MULTILINE)
    assert set(clients) == {SERVICES["mysql"]["image"]}


def test_kafka_has_the_settings_of_the_native_one() -> None:
    places = {"controller.quorum.voters", "listeners", "advertised.listeners", "log.dirs"}
    native = dict(line.split("=", 1) for line in native_kafka.PROPERTIES.splitlines())
    here = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value for name, value in environment("kafka").items()
    }
    assert set(native) == set(here) - {"heap.opts"}
    differing = {name for name in native if native[name] != here[name]}
    assert differing == places | {"listener.security.protocol.map"}


def test_mysql_has_the_options_of_the_native_one() -> None:
    native = set(native_mysql.OPTIONS) - {"--event-scheduler=OFF"}  # it only makes the native one stop faster
    assert native <= set(SERVICES["mysql"]["command"])


def test_ports_are_published_on_this_machine_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 6
    assert all(port.startswith("127.0.0.1:${") for port in ports), ports


def test_example_has_every_variable_with_its_default() -> None:
    lines = (COMPOSE / ".env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    used = [(found["name"], found["default"]) for found in VARIABLE.finditer((COMPOSE / "compose.yaml").read_text())]
    assert set(used) == set(example.items())


def test_image_contains_every_package() -> None:
    project: Mapping[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copied = re.findall(r"^COPY (\w+) \1$", (COMPOSE / "Dockerfile").read_text(), re.MULTILINE)
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert copied == packages
    assert {f"!{package}" for package in packages} <= set(allowed)


def test_prometheus_scrapes_every_process_and_exporter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scrapes = {one["job_name"]: one for one in PROMETHEUS["scrape_configs"]}
    [ours] = scrapes["rag-outbox"]["dns_sd_configs"]
    assert set(ours["names"]) == set(SERVING) == {name for name in OURS if SERVICES[name]["restart"] != "no"}
    for service in SERVING:
        loaded = settings_of(service, monkeypatch, tmp_path)
        assert (loaded.metrics_host, loaded.metrics_port) == ("0.0.0.0", ours["port"]), service
    exporters = {name for name in SERVICES if name.endswith("-exporter")}
    assert scrapes.keys() - {"rag-outbox"} == exporters == set(prometheus.EXPORTERS)
    for name in exporters:
        assert scrapes[name]["static_configs"][0]["targets"][0].partition(":")[0] == name


def test_what_monitoring_services_mount_exists() -> None:
    for service in ("prometheus", "grafana"):
        for volume in SERVICES[service]["volumes"]:
            source = volume.partition(":")[0]
            assert (COMPOSE / source).exists() if source.startswith(".") else source in FILE["volumes"], volume
    assert {(COMPOSE / "prometheus" / name).exists() for name in PROMETHEUS["rule_files"]} == {True}


def test_grafana_finds_its_datasource_and_dashboards() -> None:
    provisioning = COMPOSE / "grafana" / "provisioning"
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"].split()[0] == PROMETHEUS["global"]["scrape_interval"]
    [provider] = yaml.safe_load((provisioning / "dashboards" / "rag-outbox.yml").read_text())["providers"]
    folder = provider["options"]["path"]
    assert f"./grafana/dashboards:{folder}:ro" in SERVICES["grafana"]["volumes"]
    home = environment("grafana")["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (COMPOSE / "grafana" / "dashboards" / home.removeprefix(f"{folder}/")).exists()


def test_image_reads_every_format() -> None:
    """The worker of the stack processes whatever `ingest --queue` uploaded."""
    [extras] = re.findall(r"'\.\[([\w,-]+)\]'", (COMPOSE / "Dockerfile").read_text())
    every = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["all"]
    assert extras == "all"
    assert {each.extra for each in FORMATS if each.extra} <= set(re.findall(r"[\w-]+", every[0]))
