"""Unpacks packages of another Debian suite into a folder, without root and without a change to the system."""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from compose.native import tools
from compose.native.errors import Unavailable

SOURCES = Path("/etc/apt")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Source(NamedTuple):
    """One archive in the apt configuration of this machine."""

    uri: str
    suites: list[str]
    components: list[str]
    signed_by: str


def unpack(
    name: str, suite: str, packages: list[str], folder: Path, log: Path, *, without: tuple[str, ...] = ("perl",)
) -> None:
    """Unpack packages of a suite into `folder`/root, with their dependencies.

    Packages whose names begin with one of `without` are left out; nothing of ours needs Perl.
    """
    tools.need(name, "apt-get", "dpkg", package="Debian's apt and dpkg, or use a Debian machine")
    source = _archive(name)
    apt = folder / "apt"
    for needed in ("lists/partial", "cache/archives/partial"):
        (apt / needed).mkdir(parents=True)
    (apt / "sources.list").write_text(f"deb [signed-by={source.signed_by}] {source.uri} {suite} main\n")
    (apt / "status").touch()  # nothing is installed, so that every dependency is fetched
    options = {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State": apt,
        "Dir::State::lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",  # _apt may not enter a home folder
        "Debug::NoLocking": "true",  # only root may take the system's lock, and the system does not change
        "Acquire::Retries": "3",
    }
    command: list[str | Path] = [
        "apt-get",
        "-q",
        *(part for key, value in options.items() for part in ("-o", f"{key}={value}")),
    ]
    tools.run(name, [*command, "update"], log)
    tools.run(name, [*command, "install", "-y", "--download-only", *packages], log)
    debs = sorted((apt / "cache" / "archives").glob("*.deb"))
    if not debs:
        raise Unavailable(f"{name}: apt-get fetched nothing: {log}")
    for deb in debs:
        if not deb.name.startswith(without):
            tools.run(name, ["dpkg", "-x", deb, folder / "root"], log)


def _archive(name: str) -> Source:
    """The Debian archive in the apt configuration of this machine: our files name no archive."""
    release = _os_release()
    for source in sources(SOURCES):
        if "main" in source.components and release.get("VERSION_CODENAME", "sid") in source.suites:
            return source
    system = release.get("PRETTY_NAME", "this system")
    if release.get("ID") != "debian":
        raise Unavailable(f"{name}: needs Debian's archive; this machine is {system}")
    raise Unavailable(f"{name}: {SOURCES} names no Debian archive for {system}")


def sources(folder: Path) -> Iterator[Source]:
    """All archives in an apt folder, in both of its formats, see sources.list(5)."""
    for path in sorted(folder.glob("sources.list.d/*.sources")):
        for paragraph in path.read_text().split("\n\n"):
            lines = [line for line in paragraph.splitlines() if ":" in line and not line.startswith(("#", " "))]
            fields = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
            if "deb" in fields.get("types", "").split() and fields.get("enabled", "yes") != "no":
                key = fields.get("signed-by", "")
                for uri in fields.get("uris", "").split():
                    suites, components = fields.get("suites", "").split(), fields.get("components", "").split()
                    yield Source(uri, suites, components, key if key.startswith("/") else KEYRING)
    for path in [folder / "sources.list", *sorted(folder.glob("sources.list.d/*.list"))]:
        for line in path.read_text().splitlines() if path.exists() else ():
            words = shlex.split(line.replace("[", " '").replace("]", "' "), comments=True)
            options = words.pop(1) if "[" in line and len(words) > 1 else ""
            if len(words) >= 4 and words[0] == "deb":
                given = dict(option.partition("=")[::2] for option in options.split())
                yield Source(words[1], [words[2]], words[3:], given.get("signed-by", KEYRING))


def _os_release() -> dict[str, str]:
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.partition("=")[::2] for line in lines)
    return {key: value.strip('"') for key, value in pairs}
