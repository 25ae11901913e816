"""Images inside files: checked before they are decoded, and kept as PNG."""

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from producer.processing.extract.limits import ExtractLimits
from producer.processing.extract.port import Image, Unreadable

_LEAST_SIDE = 32  # pixels: smaller images are lines, bullets and spacers


@contextmanager
def open_picture(raw: bytes, limits: ExtractLimits) -> Iterator[Pillow.Image]:
    """An image that is not decoded yet. Raises Unreadable for a damaged one, or one of too many pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about large images and odd metadata
            with Pillow.open(io.BytesIO(raw)) as picture:
                require_few_pixels(*picture.size, limits)
                yield picture
    except Unreadable:
        raise
    except (UnidentifiedImageError, Pillow.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise Unreadable(f"damaged: {error}") from error


def require_few_pixels(width: int, height: int, limits: ExtractLimits) -> None:
    if width * height > limits.pixels:
        raise Unreadable(f"an image of {width:,} × {height:,} pixels, the limit is {limits.pixels:,} pixels")


class Gallery:
    """Collects the images of a file, each once; bounded in number and bytes."""

    def __init__(self, limits: ExtractLimits) -> None:
        self._limits = limits
        self._seen: set[str] = set()
        self._png_bytes = 0
        self.images: list[Image] = []
        self.left_out = 0  # images that cannot be read, or that are beyond a limit

    def add(self, picture: Pillow.Image, page: int | None = None) -> None:
        """Keep a decoded image, unless it is tiny or known already."""
        if self._limits.images == 0 or min(picture.size) < _LEAST_SIDE:
            return
        png = _to_png(picture)
        digest = hashlib.sha256(png).hexdigest()
        if digest in self._seen:
            return
        self._seen.add(digest)
        if len(self.images) >= self._limits.images or self._png_bytes + len(png) > self._limits.image_bytes:
            self.left_out += 1
            return
        self._png_bytes += len(png)
        self.images.append(Image(png, *picture.size, page))

    def add_encoded(self, raw: bytes, page: int | None = None) -> None:
        """Keep an image from the bytes of its file; one that cannot be read is counted."""
        if self._limits.images == 0:
            return
        try:
            with open_picture(raw, self._limits) as picture:
                if min(picture.size) >= _LEAST_SIDE:
                    self.add(upright(picture), page)
        except Unreadable:
            self.left_out += 1

    def warnings(self) -> list[str]:
        left_out = self.left_out
        return [f"{left_out} image{'' if left_out == 1 else 's'} damaged or beyond a limit"] if left_out else []


def upright(picture: Pillow.Image) -> Pillow.Image:
    """The decoded image, turned as its camera says; transparent pixels become white."""
    turned = ImageOps.exif_transpose(picture) or picture
    if turned.mode in ("RGB", "L"):
        return turned
    if turned.has_transparency_data:
        with_alpha = turned.convert("RGBA")
        flat = Pillow.new("RGB", with_alpha.size, "white")
        flat.paste(with_alpha, mask=with_alpha.getchannel("A"))
        return flat
    return turned.convert("RGB")


def _to_png(picture: Pillow.Image) -> bytes:
    kept = picture if picture.mode in ("RGB", "RGBA", "L", "LA", "P", "1") else picture.convert("RGB")
    stream = io.BytesIO()
    kept.save(stream, "PNG")
    return stream.getvalue()
