"""Prompts one behind the other, without padding: their ids, positions and ends, worked out with numpy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgmeaning.models.qwen3_vl.vision import MERGED, Visual

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the network reads for one input."""

    ids: Sequence[int] | NDArray[np.integer[Any]]
    images: tuple[Visual, ...] = ()
    videos: tuple[Visual, ...] = ()


@dataclass(frozen=True, slots=True)
class Packed:
    """Prompts as one run of tokens."""

    tokens: Numbers  # [4, tokens]: the ids, and each one's position in time, height and width
    ends: NDArray[np.int32]  # [prompts + 1], from 0
    media: Numbers  # the places of the tokens that stand for images, then of those for videos

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return int(np.diff(self.ends).max())


def pack(prompts: Sequence[Prompt], image_pad: int, video_pad: int) -> Packed:
    """The prompts in their order."""
    ends = np.zeros(len(prompts) + 1, np.int32)
    np.cumsum([len(prompt.ids) for prompt in prompts], out=ends[1:])
    tokens = np.empty((4, int(ends[-1])), np.int64)
    for prompt, start, end in zip(prompts, ends, ends[1:], strict=False):
        tokens[0, start:end] = prompt.ids
        tokens[1:, start:end] = positions(tokens[0, start:end], prompt, image_pad, video_pad)
    media = [np.flatnonzero(tokens[0] == pad) for pad in (image_pad, video_pad)] if _have_media(prompts) else []
    return Packed(tokens, ends, np.concatenate(media) if media else np.empty(0, np.int64))


def positions(ids: Numbers, prompt: Prompt, image_pad: int, video_pad: int) -> Numbers:
    """int64 [3, tokens]: text counts on; an image is a grid, behind which text goes on at its longer side."""
    if not prompt.images and not prompt.videos:
        return np.broadcast_to(np.arange(len(ids)), (3, len(ids)))
    images, videos = _grids(prompt.images), _grids(prompt.videos)
    found = np.empty((3, len(ids)), np.int64)
    now = 0
    for start, end in _runs(np.isin(ids, (image_pad, video_pad)).astype(np.int8) * ids):
        if ids[start] in (image_pad, video_pad):
            rows, columns = next(images if ids[start] == image_pad else videos)
            found[:, start:end] = now + np.stack([np.zeros(rows * columns, np.int64), *_grid(rows, columns)])
            now += max(rows, columns)
        else:
            found[:, start:end] = np.arange(now, now + end - start)
            now += end - start
    return found


def round_up(length: int) -> int:
    """A power of two from 128: so few that a kernel is never chosen anew."""
    return max(128, 1 << (length - 1).bit_length())


def _grids(visuals: Sequence[Visual]) -> Iterator[tuple[int, int]]:
    """Rows and columns of tokens of each image, and of each pair of a video's frames."""
    for visual in visuals:
        pairs, rows, columns = visual.grid
        for _ in range(pairs):
            yield rows // MERGED, columns // MERGED


def _grid(rows: int, columns: int) -> tuple[Numbers, Numbers]:
    return np.repeat(np.arange(rows), columns), np.tile(np.arange(columns), rows)


def _runs(numbers: Numbers) -> Iterator[tuple[int, int]]:
    """(start, end) of runs of equal numbers."""
    edges = np.flatnonzero(np.diff(numbers)) + 1
    places = [0, *edges.tolist(), len(numbers)]
    return pairwise(places)


def _have_media(prompts: Sequence[Prompt]) -> bool:
    return any(prompt.images or prompt.videos for prompt in prompts)
