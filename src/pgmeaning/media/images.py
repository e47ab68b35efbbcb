"""Reads images as models take them: upright, RGB, 8 bits, transparency on white."""

from __future__ import annotations

import io
from math import ceil
from typing import TYPE_CHECKING, Any

from pgmeaning.errors import InputError, ModelUnavailable
from pgmeaning.media.pixels import Pixels, decoding
from pgmeaning.media.policy import TRUSTED, Checked, Policy, policy_for, shown
from pgmeaning.media.sources import read_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

# Not all formats that Pillow reads: some run other programs (EPS) or are rarely tested.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
ORIENTATION = 0x0112  # EXIF; 5 to 8 lie on their side
TURNS = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
    8: "ROTATE_90",
}  # fmt: skip
# Each scan of a JPEG goes over all of its pixels, and takes as little as a hundred bytes. Encoders write about ten.
MOST_SCANS = 100
START_OF_SCAN = b"\xff\xda"
TILE_WIDTH, TILE_HEIGHT = 322, 323  # of a TIFF; a tile may be larger than its image
# Converted at a time, so that a large image has no copies of its own size beside it.
BAND_PIXELS = 1_000_000
# A tile is padded to this and more, whatever the image.
LARGE_TILE = 1024 * 1024
# No side gets shorter than this by reducing.
SHORTEST = 64
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


def read_image(source: Any, policy: Policy = TRUSTED, at_most: int | None = None) -> Image:
    """The image: upright, RGB, 8 bits per channel, transparency on white; for an animation, its first frame.

    `source` is a PIL image, bytes, a path, a data URI or an http(s) URL. Raises InputError for anything else. An image
    of more than `at_most` pixels is reduced, by a whole number on each side; where the format can, as it is decoded.
    """
    image = _opened(source, policy_for(source, policy))
    if image is not source:
        _draft(image, _factor(image, at_most))
    try:
        with decoding(image.width * image.height):
            image.load()
            made = plain(image, at_most)
            return made.copy() if made is source else made
    except InputError:
        raise
    except Exception as error:  # decoders raise all sorts of errors for broken files
        raise InputError(f"{_name(source)} cannot be decoded: {_reason(error)}") from error


def image_size(source: Any, policy: Policy = TRUSTED) -> tuple[int, int]:
    """(width, height) of the upright image, from its header alone; raises InputError."""
    image = _opened(source, policy_for(source, policy))
    width, height = image.size
    return (height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)


def fetch_image(source: Any, policy: Policy = TRUSTED, pixels: Pixels | None = None) -> bytes | Image:
    """The image, still encoded, after it was decoded once without error; a PIL image as `read_image` returns it.

    `pixels` is what the row may still cost.
    """
    pixels = pixels or Pixels(policy)
    if isinstance(source, pillow().Image):
        pixels.charge(source.width * source.height)
        return read_image(source, policy)
    data = read_bytes(source, policy)
    image = _opened(data, policy)
    pixels.charge(image.width * image.height)
    try:
        # Decoding a JPEG at an eighth of its size takes a third of the time, and still reads it to the end.
        image.draft("RGB", (1, 1))
        with decoding(image.width * image.height):
            image.load()
    except Exception as error:
        raise InputError(f"{_name(source)} cannot be decoded: {_reason(error)}") from error
    return Checked(data, policy)


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


def plain(image: Image, at_most: int | None = None) -> Image:
    """A decoded image: upright, RGB, reduced to about `at_most` pixels; raises InputError if it has no brightness."""
    turn = TURNS.get(_orientation(image))
    image = _rgb(image, _factor(image, at_most))
    return image if turn is None else image.transpose(pillow().Transpose[turn])


def _factor(image: Image, at_most: int | None) -> int:
    """By how much to reduce each side."""
    wanted = 1 if at_most is None else ceil((image.width * image.height / at_most) ** 0.5)
    return max(1, min(wanted, min(image.size) // SHORTEST))


def _draft(image: Image, factor: int) -> None:
    """Have a JPEG decoded at a half, a quarter or an eighth of its size, if that is no less than what is wanted."""
    if factor > 1:
        image.draft(None, (image.width // factor, image.height // factor))


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
    _check_structure(source, image, data)
    return image


def _check_structure(source: Any, image: Image, data: bytes) -> None:
    """Raise InputError for what costs far more than the image's pixels."""
    if image.format in ("JPEG", "MPO") and data.count(START_OF_SCAN) > MOST_SCANS:
        raise InputError(f"{_name(source)} has more than {MOST_SCANS} scans", hint="save it anew")
    tags = getattr(image, "tag_v2", None) or {}
    tile = [int(tags.get(tag) or 0) for tag in (TILE_WIDTH, TILE_HEIGHT)]
    if tile[0] * tile[1] > 2 * image.width * image.height + LARGE_TILE:
        raise InputError(f"{_name(source)} has tiles of {tile[0]} x {tile[1]}, larger than itself", hint="save it anew")


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


def _orientation(image: Image) -> int:
    # Looking for EXIF after the pixels of a PNG would decode them.
    if getattr(image, "format", None) == "PNG" and "exif" not in image.info:
        return 1
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a broken EXIF block is no reason to refuse the image
        return 1


def _rgb(image: Image, factor: int) -> Image:
    """RGB and reduced, band by band."""
    if factor == 1 and image.mode == "RGB" and "transparency" not in image.info:
        return image
    width, height = image.size
    rows = max(1, BAND_PIXELS // (width * factor)) * factor
    made: Image = pillow().new("RGB", (ceil(width / factor), ceil(height / factor)))
    for top in range(0, height, rows):
        band = _band_rgb(image.crop((0, top, width, min(top + rows, height))))
        made.paste(band.reduce(factor) if factor > 1 else band, (0, top // factor))
    return made


def _band_rgb(image: Image) -> Image:
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
