"""Checks a Word or Excel file, which is a zip archive, before a library unpacks it."""

import io
import zipfile
import zlib

from producer.processing.extract.limits import ExtractLimits, MiB
from producer.processing.extract.port import Unreadable

_ALWAYS_ALLOWED = 16 * MiB  # unpacked: small files may be packed well
_BLOCK_BYTES = 1 * MiB


def require_bounded(raw: bytes, limits: ExtractLimits) -> None:
    """Raise Unreadable for a damaged or encrypted archive, and for one that would grow beyond the limits.

    Every entry is unpacked once, block by block: the sizes that an archive claims may be wrong.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            entries = archive.infolist()
            if len(entries) > limits.archive_entries:
                raise Unreadable(f"{len(entries):,} files in it, the limit is {limits.archive_entries:,}")
            if any(entry.flag_bits & 1 for entry in entries):
                raise Unreadable("it is encrypted: remove its password")
            most = min(limits.archive_bytes, max(_ALWAYS_ALLOWED, limits.archive_ratio * len(raw)))
            _require_size(sum(entry.file_size for entry in entries), most)
            unpacked = 0
            for entry in entries:
                with archive.open(entry) as stream:
                    while block := stream.read(_BLOCK_BYTES):
                        unpacked += len(block)
                        _require_size(unpacked, most)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, zlib.error) as error:
        raise Unreadable(f"damaged: {error}") from error


def _require_size(unpacked: int, most: int) -> None:
    if unpacked > most:
        raise Unreadable(f"it unpacks to {unpacked:,} bytes or more, the limit for its size is {most:,}")
