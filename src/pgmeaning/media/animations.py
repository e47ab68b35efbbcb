"""Animated GIF, PNG, WebP and AVIF: how many frames and how long, read from the file's blocks without decoding any."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from pgmeaning.media.images import opened

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("GIF", "WEBP", "PNG", "AVIF")
# Seconds of a frame that says nothing, as browsers take it.
USUAL = 0.1


@dataclass(frozen=True, slots=True)
class Animation:
    """The opened file. `seconds` of each frame, or None where only decoding tells; `pixels`: those of one frame."""

    image: Image
    frames: int
    seconds: list[float] | None
    pixels: int


def animation(data: bytes, most_frames: int) -> Animation | None:
    """None if it is no animation; the frames beyond `most_frames` are not looked for. Raises whatever Pillow does."""
    image = opened(data)
    if image.format not in FORMATS:
        return None
    width, height = image.size
    if image.format == "GIF":
        # Pillow counts by reading every frame's palette, and notices a frame larger than the canvas as it comes to it.
        found = list(islice(_gif(data), most_frames + 1))
        width = max([width, *(right for _, right, _ in found)])
        height = max([height, *(bottom for _, _, bottom in found)])
        seconds: list[float] | None = [duration for duration, _, _ in found]
        frames = len(found)
    else:
        frames = getattr(image, "n_frames", 1)
        walk = {"PNG": _png, "WEBP": _webp}.get(image.format or "")
        seconds = list(islice(walk(data), most_frames + 1)) if walk else None
    if seconds is not None:
        seconds += [USUAL] * (min(frames, most_frames + 1) - len(seconds))
    return Animation(image, frames, seconds, width * height) if frames > 1 else None


def _gif(data: bytes) -> Iterator[tuple[float, int, int]]:
    """(seconds, right edge, bottom edge) of each frame, as far as the file goes."""
    place = 13 + _colors(data, 10)
    seconds = USUAL
    while place + 10 < len(data):
        if data[place] == 0x21:  # an extension; 0xF9 has the duration of the frame that follows
            if data[place + 1] == 0xF9:
                seconds = int.from_bytes(data[place + 4 : place + 6], "little") / 100 or USUAL
            place = _after_blocks(data, place + 2)
        elif data[place] == 0x2C:
            left, top, width, height = (
                int.from_bytes(data[place + at : place + at + 2], "little") for at in range(1, 9, 2)
            )
            yield seconds, left + width, top + height
            seconds = USUAL
            place = _after_blocks(data, place + 11 + _colors(data, place + 9))
        elif data[place] == 0x3B:
            return
        else:
            place += 1


def _colors(data: bytes, flags: int) -> int:
    """The bytes of a table of colors, by the flags that announce it."""
    return 3 << (data[flags] & 7) + 1 if data[flags] & 0x80 else 0


def _after_blocks(data: bytes, place: int) -> int:
    while place < len(data) and data[place]:
        place += 1 + data[place]
    return place + 1


def _png(data: bytes) -> Iterator[float]:
    place = 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4])
        if data[place + 4 : place + 8] == b"fcTL":
            above, below = (int.from_bytes(data[place + at : place + at + 2]) for at in (28, 30))
            yield above / (below or 100) or USUAL
        place += 12 + length


def _webp(data: bytes) -> Iterator[float]:
    place = 12
    while place + 8 <= len(data):
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        if data[place : place + 4] == b"ANMF":
            yield int.from_bytes(data[place + 20 : place + 23], "little") / 1000 or USUAL
        place += 8 + length + length % 2
