"""Reads the text of an image file by OCR."""

from collections.abc import Iterator

from PIL import Image as Pillow
from PIL import ImageSequence

from producer.processing.extract import ocr
from producer.processing.extract.limits import ExtractLimits
from producer.processing.extract.pictures import open_picture, require_few_pixels, upright
from producer.processing.extract.port import Content, Passage, Unreadable


def read(raw: bytes, limits: ExtractLimits) -> Content:
    """`Extractor` of images; each image of a TIFF file is a page. Raises Unreadable."""
    with open_picture(raw, limits) as picture:
        pages = [*_read_pages(picture, limits)]
    blocks = [Passage(text, is_scanned=True) for text in pages if text]
    return Content(blocks, is_markdown=False, page_count=len(pages))


def _read_pages(picture: Pillow.Image, limits: ExtractLimits) -> Iterator[str]:
    frames = ImageSequence.Iterator(picture) if picture.format == "TIFF" else [picture]
    for number, frame in enumerate(frames, start=1):
        if number > limits.scanned_pages:
            raise Unreadable(f"more than {limits.scanned_pages:,} images in it, which is the limit")
        require_few_pixels(*frame.size, limits)
        yield ocr.read(upright(frame))
