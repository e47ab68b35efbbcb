"""How many pixels are decoded for one row in all, and how many at one time in the process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pgmeaning.errors import InputError
from pgmeaning.media.policy import Policy

# Decoded at one time, at four bytes each or a few times that; a larger image goes alone.
AT_ONE_TIME = 64_000_000


class Pixels:
    """What a row may still cost. A few kilobytes can hold gigabytes of pixels, so they are counted before decoding."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._images = policy.max_row_pixels
        self._videos = policy.max_video_pixels

    def charge(self, pixels: int) -> None:
        """Those of an image or an animation; raises InputError once the row's come to more than are allowed."""
        self._images -= pixels
        if self._images < 0:
            raise InputError(
                f"the images of a row come to {self._policy.max_row_pixels - self._images:,} pixels with all their "
                f"frames, more than the {self._policy.max_row_pixels:,} allowed",
                hint="PGMEANING_MEDIA_ROW_PIXELS allows more",
            )

    def charge_video(self, pixels: int) -> None:
        """Those of frames of a video; raises InputError likewise."""
        self._videos -= pixels
        if self._videos < 0:
            raise InputError(
                f"the videos of a row have more than the {self._policy.max_video_pixels:,} pixels allowed, "
                "width x height x frames",
                hint="PGMEANING_MEDIA_VIDEO_PIXELS allows more",
            )


class _Gate:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._condition = threading.Condition()

    @contextmanager
    def holding(self, pixels: int) -> Iterator[None]:
        """Wait until so many more fit beside what others decode."""
        with self._condition:
            self._condition.wait_for(lambda: not self._held or self._held + pixels <= self._limit)
            self._held += pixels
        try:
            yield
        finally:
            with self._condition:
                self._held -= pixels
                self._condition.notify_all()


decoding = _Gate(AT_ONE_TIME).holding
