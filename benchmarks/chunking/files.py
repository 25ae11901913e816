"""The files of a corpus: which are taken, and what reading them gives and costs."""

import hashlib
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from producer.processing.extract import formats
from producer.processing.extract.extract import FileExtractor
from producer.processing.extract.limits import DEFAULT_LIMITS
from producer.processing.extract.port import Extracted, ExtractError

PDF, OFFICE, WEB, TEXT = KINDS = ("pdf", "office", "web", "text")
_FORMATS = {
    PDF: (formats.PDF,),
    OFFICE: (formats.WORD, formats.EXCEL, formats.OLD_EXCEL, formats.ODS),
    WEB: (formats.HTML,),
    TEXT: (formats.PLAIN, formats.MARKDOWN, formats.RST),
}
KIND_OF = {suffix: kind for kind, some in _FORMATS.items() for each in some for suffix in each.suffixes}
_SEED = 20


class TooFewFiles(Exception):
    """Raised when a corpus has fewer files of a kind than asked for. Name another folder, or ask for fewer."""


@dataclass(frozen=True)
class ReadFile:
    """A file that was read."""

    kind: str  # one of KINDS
    path: Path
    extracted: Extracted


@dataclass
class Reading:
    """What reading all files of one kind gave and cost."""

    files: int = 0
    failed: int = 0
    bytes: int = 0
    characters: int = 0
    pages: int = 0
    tables: int = 0
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)  # why files were not read

    @property
    def facts(self) -> dict[str, float]:
        """For the result; rates are those of the files that were read, and the time of the others counts."""
        per_second = 1 / max(self.seconds, 1e-9)
        return {
            "files": self.files,
            "not_read": self.failed,
            "mb": round(self.bytes / 1e6, 1),
            "pages": self.pages,
            "characters": self.characters,
            "tables": self.tables,
            "seconds": round(self.seconds, 1),
            "files_per_second": round(self.files * per_second, 2),
            "mb_per_second": round(self.bytes / 1e6 * per_second, 3),
            "pages_per_second": round(self.pages * per_second, 1),
        }


def find_files(folder: Path, most: int) -> dict[str, list[Path]]:
    """At most `most` files of each kind, without copies of the same bytes; the choice is the same in every run."""
    found: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    seen = set()
    for path in sorted(folder.rglob("*")):
        kind = KIND_OF.get(path.suffix.lower())
        if kind is None or not path.is_file():
            continue
        digest = hashlib.sha256(path.read_bytes()).digest()
        if digest not in seen:
            seen.add(digest)
            found[kind].append(path)
    numbers = random.Random(_SEED)
    return {kind: sorted(numbers.sample(paths, min(most, len(paths)))) for kind, paths in found.items()}


def require_enough(counts: Mapping[str, int], pdfs: int, web_and_office: int, texts: int) -> None:
    """Raise TooFewFiles that says how many files of which kind are missing."""
    asked = (
        ("PDFs", counts[PDF], pdfs),
        ("web pages and office files", counts[WEB] + counts[OFFICE], web_and_office),
        ("text files", counts[TEXT], texts),
    )
    missing = [f"{there} {name}, at least {least} are needed" for name, there, least in asked if there < least]
    if missing:
        raise TooFewFiles("the corpus is too small: " + "; ".join(missing))


def read_files(paths: Mapping[str, Sequence[Path]], seconds: float) -> tuple[list[ReadFile], dict[str, Reading]]:
    """Read every file in the limited child process that `ingest` uses; a file that cannot be read is counted.

    `seconds` is the time per file. Scans are read by OCR, which takes seconds per page.
    """
    found: list[ReadFile] = []
    readings = {kind: Reading() for kind in paths}
    with FileExtractor(replace(DEFAULT_LIMITS, seconds=seconds)) as extractor:
        for kind, some in paths.items():
            reading = readings[kind]
            for path in some:
                began = time.monotonic()
                try:
                    one = extractor.extract(path)
                except ExtractError as error:
                    reading.failed += 1
                    reading.reasons[error.reason] += 1
                    continue
                finally:
                    reading.seconds += time.monotonic() - began
                reading.files += 1
                reading.bytes += one.size_bytes
                reading.characters += len(one.text)
                reading.pages += one.page_count or 0
                reading.tables += len(one.tables)
                found.append(ReadFile(kind, path, one))
    return found, readings
