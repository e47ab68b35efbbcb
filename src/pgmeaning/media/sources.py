"""Reads the bytes of a source: bytes as given, a data URI, a file or a URL."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

from pgmeaning.errors import InputError
from pgmeaning.media.files import read_file
from pgmeaning.media.policy import Policy, shown, too_large

SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):(//)?", re.IGNORECASE)


def read_bytes(source: object, policy: Policy) -> bytes:
    """The encoded bytes of a source, at most `policy.max_bytes`; raises InputError."""
    match source:
        case bytes():
            data = source
        case bytearray() | memoryview():
            data = bytes(source)
        case Path():
            data = read_file(source, policy)
        case str():
            data = _named(source, policy)
        case _:
            raise InputError(
                f"a {type(source).__name__} is not an image or video",
                hint="give bytes, a path, a data URI, a URL or a PIL image",
            )
    return _bounded(data, policy)


def _named(source: str, policy: Policy) -> bytes:
    if not source.strip():  # as a path it would be the current folder
        raise InputError("an image or video is named by an empty text", hint="write NULL where there is none")
    found = SCHEME.match(source)
    scheme = found[1].lower() if found else ""
    if scheme == "data":
        return _data_uri(source, policy)
    if scheme in ("http", "https"):
        from pgmeaning.media.web import fetch

        return fetch(source, policy)
    if scheme == "file":
        return read_file(Path(unquote(re.sub(r"^file:(//(localhost)?(?=/))?", "", source, flags=re.I))), policy)
    if found and found[2]:
        raise InputError(f"{shown(source)} cannot be fetched", hint="URLs may be http, https, file and data")
    return read_file(Path(source), policy)


def _data_uri(source: str, policy: Policy) -> bytes:
    head, comma, body = source.partition(",")
    if not comma:
        raise InputError("a data URI has no comma, and so no data", hint="write data:image/png;base64,...")
    if len(body) > 4 * policy.max_bytes:
        raise too_large(f"{len(body):,} characters of a data URI", policy)
    if not head.lower().endswith(";base64"):
        return unquote_to_bytes(body)
    encoded = "".join(unquote(body).split())
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"a data URI is not valid base64: {error}") from None


def _bounded(data: bytes, policy: Policy) -> bytes:
    if not data:
        raise InputError("an image or video is empty: it has no bytes")
    if len(data) > policy.max_bytes:
        raise too_large(f"{len(data):,} bytes", policy)
    return data
