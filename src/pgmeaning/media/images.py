"""Reads images as models take them: upright, RGB, 8 bits, transparency on white."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from pgmeaning.errors import InputError, ModelUnavailable
from pgmeaning.media.policy import TRUSTED, Policy, shown
from pgmeaning.media.sources import read_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

# Not all formats that Pillow reads: some run other programs (EPS) or are rarely tested.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
ORIENTATION = 0x0112  # EXIF; 5 to 8 lie on their side
OTHERS = {
    b"%PDF": "a PDF document",
    b"<svg": "an SVG drawing",
    b"<?xml": "an XML or SVG document",
    b"<!doctype": "an HTML page",
    b"<html": "an HTML page",
    b"%!ps": "a PostScript document",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x1aE\xdf\xa3": "a Matroska or WebM video",
}


def read_image(source: Any, policy: Policy = TRUSTED) -> Image:
    """The image: upright, RGB, 8 bits per channel, transparency on white; for an animation, its first frame.

    `source` is a PIL image, bytes, a path, a data URI or an http(s) URL. Raises InputError for anything else.
    """
    image = _opened(source, policy)
    try:
        return _rgb(_upright(image))
    except InputError:
        raise
    except Exception as error:  # decoders raise all sorts of errors for broken files
        raise InputError(f"{_name(source)} cannot be decoded: {_reason(error)}") from error


def image_size(source: Any, policy: Policy = TRUSTED) -> tuple[int, int]:
    """(width, height) of the upright image, from its header alone; raises InputError."""
    image = _opened(source, policy)
    width, height = image.size
    return (height, width) if _lies_on_its_side(image) else (width, height)


def fetch_image(source: Any, policy: Policy = TRUSTED) -> bytes | Image:
    """The image, still encoded, after it was decoded once without error; a PIL image as `read_image` returns it."""
    if isinstance(source, pillow().Image):
        return read_image(source, policy)
    data = read_bytes(source, policy)
    image = _opened(data, policy)
    try:
        # Decoding a JPEG at an eighth of its size takes a third of the time, and still reads it to the end.
        image.draft("RGB", (1, 1))
        image.load()
    except Exception as error:
        raise InputError(f"{_name(source)} cannot be decoded: {_reason(error)}") from error
    return data


def pillow() -> Any:
    """The module PIL.Image; raises ModelUnavailable if Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ModelUnavailable(
            "images need Pillow, which is not installed", hint="pip install 'pgmeaning[media]'"
        ) from error
    return Image


def opened(data: bytes) -> Image:
    """The image with its header read; raises whatever Pillow raises."""
    library = pillow()
    library.init()
    image: Image = library.open(io.BytesIO(data), formats=[name for name in FORMATS if name in library.OPEN])
    return image


def _opened(source: Any, policy: Policy) -> Image:
    """The image with its header read and its size checked; its pixels are not decoded yet."""
    library = pillow()
    if isinstance(source, library.Image):
        image: Image = source
    else:
        image = _parsed(source, read_bytes(source, policy))
    width, height = image.size
    if not width or not height:
        raise InputError(f"{_name(source)} has no pixels: it is {width} x {height}")
    if width * height > policy.max_pixels:
        raise _too_many_pixels(f"{_name(source)} is {width} x {height}", policy)
    return image


def _parsed(source: Any, data: bytes) -> Image:
    library = pillow()
    try:
        image = opened(data)
    except library.UnidentifiedImageError:
        raise InputError(
            f"{_name(source)} is not an image that can be read: it is {_what_else(data)}",
            hint="JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF can be read",
        ) from None
    except (library.DecompressionBombError, library.DecompressionBombWarning) as error:
        raise InputError(f"{_name(source)} has too many pixels: {error}") from None
    except Exception as error:
        raise InputError(f"{_name(source)} cannot be read: {_reason(error)}") from error
    return image


def _too_many_pixels(what: str, policy: Policy) -> InputError:
    return InputError(
        f"{what}, more than the {policy.max_pixels:,} pixels allowed", hint="PGMEANING_MEDIA_MAX_PIXELS allows more"
    )


def _what_else(data: bytes) -> str:
    start = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, name in OTHERS.items():
        if start.startswith(magic.lower()):
            return name
    if data[4:8] == b"ftyp":
        return "a HEIC image or an MP4 video"
    return "text" if _is_text(data[:256]) else "of an unknown type"


def _is_text(start: bytes) -> bool:
    return b"\0" not in start and start.decode("utf-8", "ignore").encode() == start


def _lies_on_its_side(image: Image) -> bool:
    # Looking for EXIF after the pixels of a PNG would decode them.
    if getattr(image, "format", None) == "PNG" and "exif" not in image.info:
        return False
    try:
        return image.getexif().get(ORIENTATION) in (5, 6, 7, 8)
    except Exception:  # a broken EXIF block is no reason to refuse the image
        return False


def _upright(image: Image) -> Image:
    from PIL import ImageOps

    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block again
        return image


def _rgb(image: Image) -> Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_deep_gray(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = pillow().new("RGBA", image.size, "white")
        white.alpha_composite(image)
        image = white
    return image.convert("RGB")


def _from_deep_gray(image: Image) -> Image:
    """16 bits scaled to 8; convert() would clip all values above 255."""
    import numpy as np

    values = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 0xFFFF:
        raise InputError(
            f"an image of mode {image.mode} has no definite brightness", hint="save it with 8 or 16 bits per channel"
        )
    return pillow().fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")  # type: ignore[no-any-return]


def _name(source: Any) -> str:
    return f"image {shown(source)}" if isinstance(source, str) or hasattr(source, "__fspath__") else "an image"


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
