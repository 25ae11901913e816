"""Finds the files of the given paths; what cannot be read is named, never left out in silence.

Hidden files and folders are left out. A link to a file is read as a file. A link to a folder is followed, unless its
files are found by their own path in the same folder, or it leads above the folder.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from operations.errors import UsageError
from operations.ingest.sources import Source, SourceFile, absolute
from producer.processing.extract.extract import is_supported


@dataclass
class Found:
    files: dict[str, SourceFile] = field(default_factory=dict)  # by doc_id; those to ingest
    present: set[str] = field(default_factory=set)  # doc_ids of all files, excluded and unsupported ones included
    folders: list[Path] = field(default_factory=list)  # the given ones, absolute
    unsupported: list[str] = field(default_factory=list)  # paths of files of other types
    skipped: list[str] = field(default_factory=list)  # "path: reason" per link that is not followed
    unreadable: list[str] = field(default_factory=list)  # "path: reason" per folder


def find(paths: Sequence[Path], source: Source, exclude: Sequence[str] = ()) -> Found:
    """The files at and below `paths`. A pattern of `exclude` matches a path below the folder, or a name in it.

    A file that `paths` names itself is always included: if its type is not supported, `ingest` reports that. Raises
    UsageError for a missing path.
    """
    found = Found()
    for path in paths:
        if path.is_dir():
            found.folders.append(absolute(path))
            _Walk(found.folders[-1], source, exclude, found).run()
        elif path.exists():
            file = source.file(absolute(path), path.name)  # a named source has folders only
            found.files[file.doc_id] = file
            found.present.add(file.doc_id)
        else:
            raise UsageError(f"no such file or folder: {path}")
    return found


class _Walk:
    """The walk through one given folder."""

    def __init__(self, root: Path, source: Source, exclude: Sequence[str], found: Found) -> None:
        self._root = root
        self._source = source
        self._exclude = exclude
        self._found = found
        self._visited: set[tuple[int, int]] = set()  # device and inode per folder
        self._links: list[tuple[str, str]] = []  # path and path below the root

    def run(self) -> None:
        self._walk(str(self._root), "")
        for path, below in self._links:  # grows while it is read
            self._follow(path, below)

    def _walk(self, folder: str, below: str) -> None:
        waiting = [(folder, below)]
        while waiting:
            folder, below = waiting.pop()
            try:
                status = os.stat(folder)
                self._visited.add((status.st_dev, status.st_ino))
                with os.scandir(folder) as scanned:
                    entries = sorted(scanned, key=lambda entry: entry.name)
            except OSError as error:
                if not self._is_excluded(below):
                    self._found.unreadable.append(f"{folder}: cannot be read: {error.strerror or error}")
                continue
            for entry in entries:
                at = f"{below}/{entry.name}" if below else entry.name
                if not _is_folder(entry):
                    self._add(entry, at)
                elif entry.name.startswith("."):
                    continue
                elif entry.is_symlink():
                    self._links.append((entry.path, at))
                else:
                    waiting.append((entry.path, at))

    def _add(self, entry: os.DirEntry[str], below: str) -> None:
        path = Path(entry.path)
        file = self._source.file(path, below)
        self._found.present.add(file.doc_id)
        if entry.name.startswith(".") or self._is_excluded(below):
            return
        if is_supported(path):
            self._found.files[file.doc_id] = file
        else:
            self._found.unsupported.append(entry.path)

    def _follow(self, path: str, below: str) -> None:
        if self._is_excluded(below):
            return
        try:
            status, target = os.stat(path), os.path.realpath(path)
        except OSError as error:
            self._found.unreadable.append(f"{path}: cannot be read: {error.strerror or error}")
            return
        if (status.st_dev, status.st_ino) in self._visited:
            self._found.skipped.append(f"{path}: a link to a folder that is read by another path")
        elif Path(os.path.realpath(self._root)).is_relative_to(target):
            self._found.skipped.append(f"{path}: a link to a folder above")
        else:
            self._walk(path, below)

    def _is_excluded(self, below: str) -> bool:
        names = below.split("/")
        return any(
            fnmatchcase(below, pattern) or any(fnmatchcase(name, pattern) for name in names)
            for pattern in self._exclude
        )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself: reading it says so
        return False
