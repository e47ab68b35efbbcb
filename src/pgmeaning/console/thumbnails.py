"""Small pictures of rows' images: decoded here and encoded anew, so that no byte of a row's reaches the browser."""

from __future__ import annotations

import io
from typing import Any

from pgmeaning.client.rows import loading
from pgmeaning.console.connections import Connections
from pgmeaning.documents.template import several
from pgmeaning.errors import CollectionError, InputError
from pgmeaning.media import read_image
from pgmeaning.settings import Settings

SIDE = 320  # pixels


def thumbnail(connections: Connections, collection: str, key: str) -> bytes:
    """A row's first image as a small JPEG. Files and URLs are read only where PGMEANING_MEDIA_* allow it.

    Raises CollectionError where there is no such row or image, InputError for what is no image.
    """
    with connections.reading() as client:
        statements = client._statements
        image = statements.target(collection).image
        if image is None:
            raise CollectionError(f"collection {collection!r} has no images")
        arguments = {"collection": collection, "key": key, "columns": [image]}
        cursor = statements.execute("console/row", arguments)
        load, row = loading(cursor), cursor.fetchone()
        values = several(load(row[1][0], row[2][0])) if row else ()
    if not values:
        raise CollectionError("the row has no image")
    return _small(values[0])


def _small(source: Any) -> bytes:
    policy = Settings().media
    image = read_image(source, policy, at_most=4 * SIDE * SIDE)
    image.thumbnail((SIDE, SIDE))
    made = io.BytesIO()
    try:
        image.save(made, "JPEG", quality=85)
    except OSError as error:
        raise InputError(f"the image cannot be shown: {error}") from error
    return made.getvalue()
