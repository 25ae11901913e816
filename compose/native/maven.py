"""Fetches jars from Maven: artifacts with their dependencies at run time."""

from collections.abc import Sequence
from pathlib import Path

from compose.native import tools, versions
from compose.native.cache import Cache

_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>rag-outbox</groupId>
  <artifactId>{name}</artifactId>
  <version>{version}</version>
  <dependencies>
{dependencies}  </dependencies>
</project>
"""
_DEPENDENCY = """    <dependency>
      <groupId>{group}</groupId>
      <artifactId>{artifact}</artifactId>
      <version>{version}</version>
    </dependency>
"""


def fetch(cache: Cache, name: str, key: str, version: str, artifacts: Sequence[str]) -> None:
    """Fill the folder `key` of the cache: its folder `jars` gets the artifacts. Raises ServerError.

    An artifact is `group:artifact`, with `:version` if it is not `version`.
    """

    def fill(part: Path) -> None:
        tools.need(name, "mvn", package="Maven (on Debian: maven)")
        wanted = (_dependency(*f"{artifact}:{version}".split(":")[:3]) for artifact in artifacts)
        (part / "pom.xml").write_text(_POM.format(name=name, version=version, dependencies="".join(wanted)))
        command = [
            "mvn",
            "--batch-mode",
            f"--file={part}/pom.xml",
            f"-Dmaven.repo.local={part}/repository",
            f"org.apache.maven.plugins:maven-dependency-plugin:{versions.MAVEN_DEPENDENCY_PLUGIN}:copy-dependencies",
            "-DincludeScope=runtime",
            f"-DoutputDirectory={part}/jars",
        ]
        tools.run(name, command, cache.root / f"{key}.log")
        tools.remove(part / "repository")

    cache.fill_once(name, key, fill)


def _dependency(group: str, artifact: str, version: str) -> str:
    return _DEPENDENCY.format(group=group, artifact=artifact, version=version)
