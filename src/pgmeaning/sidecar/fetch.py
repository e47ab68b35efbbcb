"""Between reading rows and embedding them: what they name as images and videos becomes checked bytes.

No transaction is open meanwhile, however long a URL takes; what is no image fails its own row. The bytes stay
encoded, so that rows that wait for the model take little memory: the model decodes a batch when its turn has come.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pgmeaning.errors import InputError, describe
from pgmeaning.media import Policy, fetch_image, fetch_video
from pgmeaning.sidecar.store import needs_vector
from pgmeaning.threads import each
from pgmeaning.types import Document, Row

# Of one row. A model reads a few at full size; more than this is a mistake, or somebody's malice.
MEDIA_PER_ROW = 32


class Fetcher:
    """Fetches what rows name, several rows at once."""

    def __init__(self, policy: Policy, threads: int, stopping: threading.Event) -> None:
        self._policy = policy
        self._threads = threads
        self._stopping = stopping

    def fetch(self, rows: Sequence[Row]) -> tuple[list[Row], list[tuple[Row, str]]]:
        """The rows with bytes in their documents, and those that cannot have them, with why; not all once stopped."""
        fetched = each(self._fetched, rows, self._threads, self._stopping)
        return (
            [row for row in fetched if isinstance(row, Row)],
            [failed for failed in fetched if isinstance(failed, tuple)],
        )

    def _fetched(self, row: Row) -> Row | tuple[Row, str]:
        if row.document is None or not needs_vector(row):
            return row
        try:
            return replace(row, document=fetch_media(row.document, self._policy))
        except Exception as error:  # whatever a decoder raises must stay this row's
            return row, describe(error)


def fetch_media(document: Document, policy: Policy) -> Document:
    """The document with the bytes of its images and videos; raises InputError."""
    count = len(document.images) + len(document.videos)
    if count > MEDIA_PER_ROW:
        raise InputError(f"the row has {count} images and videos, more than the {MEDIA_PER_ROW} allowed")
    images: tuple[Any, ...] = tuple(fetch_image(image, policy) for image in document.images)
    videos: tuple[Any, ...] = tuple(fetch_video(video, policy) for video in document.videos)
    return replace(document, images=images, videos=videos)
