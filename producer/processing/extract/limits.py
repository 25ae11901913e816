"""What a file may be, hold and cost: every limit of extraction."""

from dataclasses import dataclass

MiB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ExtractLimits:
    """A file beyond one of these limits is refused; nothing is cut off in silence."""

    file_bytes: int = 64 * MiB  # memory peaks at twice that, at eight times if a text has an emoji
    text_chars: int = 32_000_000
    pages: int = 5_000  # of a PDF, or images in one TIFF file
    scanned_pages: int = 200  # of a PDF: each takes seconds to read
    tables: int = 10_000
    cells: int = 1_000_000  # of all tables
    pixels: int = 64_000_000  # per image
    images: int = 500  # kept images of a file; 0 keeps none
    image_bytes: int = 64 * MiB  # of all kept images, as PNG
    archive_bytes: int = 512 * MiB  # of a Word or Excel file, unpacked
    archive_ratio: int = 200  # unpacked size over packed size, for more than 16 MiB
    archive_entries: int = 20_000
    seconds: float = 300.0  # wall-clock time per file
    memory_bytes: int = 2048 * MiB  # address space of the process that reads
    result_bytes: int = 256 * MiB  # of the extracted text, tables and images together


DEFAULT_LIMITS = ExtractLimits()
