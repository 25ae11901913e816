"""Streams that count and digest what passes through them."""

import hashlib
from collections.abc import Iterable, Iterator

from operations.backup.errors import BackupUnusable
from schema.object_store.port import Readable


class DigestReader:
    """Reads another stream, and knows the size and the SHA-256 of what was read."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def read(self, size: int = -1, /) -> bytes:
        piece = self._stream.read(size)
        self._digest.update(piece)
        self.size_bytes += len(piece)
        return piece


class VerifyingReader(DigestReader):
    """Raises BackupUnusable in place of the last piece, unless the whole has this size and SHA-256.

    So a store that is given this stream writes nothing that differs.
    """

    def __init__(self, stream: Readable, name: str, *, size_bytes: int, sha256: str) -> None:
        super().__init__(stream)
        self._name = name
        self._expected = size_bytes, sha256

    def read(self, size: int = -1, /) -> bytes:
        piece = super().read(size)
        size_bytes, sha256 = self._expected
        is_end = not piece and size != 0
        if self.size_bytes > size_bytes or (is_end and self.size_bytes < size_bytes):
            raise BackupUnusable(f"{self._name} has {self.size_bytes} bytes or more instead of {size_bytes}")
        if self.size_bytes == size_bytes and self.sha256 != sha256:
            raise BackupUnusable(f"{self._name} is damaged: its SHA-256 is {self.sha256} instead of {sha256}")
        return piece


class LinesReader:
    """Lines as a stream, without more than `size` bytes and one line in memory."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self._rest = b""

    def read(self, size: int = -1, /) -> bytes:
        pieces, length = [self._rest], len(self._rest)
        while size < 0 or length < size:
            line = next(self._lines, None)
            if line is None:
                break
            pieces.append(line)
            length += len(line)
        whole = b"".join(pieces)
        end = len(whole) if size < 0 else size
        self._rest = whole[end:]
        return whole[:end]


def read_lines(stream: Readable) -> Iterator[bytes]:
    """The lines of a stream without their ends, in bounded memory."""
    rest = b""
    while piece := stream.read(65_536):
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if rest:
        yield rest
