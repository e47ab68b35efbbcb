"""Rows with pictures and video: every way to hold one, what goes wrong with one, and searching by one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import pgmeaning
from pgmeaning import Client
from pgmeaning.errors import InputError
from pgmeaning.sidecar import Sidecar
from tests.conftest import Connection, wait_until
from tests.integration.embedders import Watched
from tests.pictures import BLUE, GREEN, RED, Web, animation, answering, data_uri, encoded, noise, picture, video, web

Drain = Callable[..., int]


@pytest.fixture
def client(dsn: str) -> Iterator[Client]:
    with pgmeaning.connect(dsn) as opened:
        yield opened


@pytest.fixture
def served() -> Iterator[Web]:
    with web() as running:
        yield running


def make(db: Connection, type: str = "bytea", *, columns: bool = False, medium: str = "image") -> None:
    db.execute(f"CREATE TABLE products (id int PRIMARY KEY, title text, photo {type})")
    text = "columns => '{title}', " if columns else ""
    db.execute(f"SELECT pgmeaning.attach('products', {text}{medium} => 'photo')")


def put(db: Connection, *photos: object, title: str | None = None) -> None:
    """Rows 1, 2, ... with these."""
    for number, photo in enumerate(photos, start=1):
        db.execute("INSERT INTO products VALUES (%s, %s, %s)", (number, title, photo))


def vectors(db: Connection) -> dict[int, bytes]:
    return {
        key: np.asarray(json.loads(vector), np.float32).tobytes()
        for key, vector in db.execute("SELECT id, embedding::text FROM products_embedding").fetchall()
    }


def failures(db: Connection) -> dict[int, str]:
    rows = db.execute("SELECT (key ->> 'id')::int, error FROM pgmeaning.failures").fetchall()
    return dict(rows)


def expected(*images: bytes, text: str | None = None, videos: tuple[bytes, ...] = ()) -> bytes:
    """The vector of the very bytes, as the synthetic model makes it."""
    document = {"text": text, "images": list(images), "videos": list(videos)}
    return pgmeaning.load_embedder("synthetic-384").embed_documents([document])[0].tobytes()


def same(found: dict[int, bytes], wanted: dict[int, bytes]) -> bool:
    return found.keys() == wanted.keys() and all(
        np.allclose(np.frombuffer(found[key], np.float32), np.frombuffer(wanted[key], np.float32), atol=1e-6)
        for key in wanted
    )


# Where a picture is


def test_a_picture_in_bytea_is_embedded_from_its_bytes(db: Connection, drain: Drain) -> None:
    make(db)
    put(db, encoded(picture(RED)), encoded(picture(BLUE), "JPEG"), None)
    assert drain() == 0
    assert same(vectors(db), {1: expected(encoded(picture(RED))), 2: expected(encoded(picture(BLUE), "JPEG"))})


def test_a_picture_with_a_text_is_one_document(db: Connection, drain: Drain) -> None:
    make(db, columns=True)
    put(db, encoded(), title="a red square")
    db.execute("INSERT INTO products VALUES (2, 'no picture', NULL), (3, NULL, %s), (4, NULL, NULL)", (encoded(),))
    assert drain() == 0
    wanted = {1: expected(encoded(), text="a red square"), 2: expected(text="no picture"), 3: expected(encoded())}
    assert same(vectors(db), wanted)


def test_data_uris_paths_and_urls_stand_for_their_bytes(
    db: Connection, drain: Drain, tmp_path: Path, served: Web
) -> None:
    make(db, "text")
    (tmp_path / "photo.png").write_bytes(encoded(picture(GREEN)))
    served.answers["/photo.png"] = answering(encoded(picture(BLUE)))
    put(db, data_uri(encoded()), str(tmp_path / "photo.png"), "photo.png", served.url("/photo.png"))
    assert drain(media_folders=str(tmp_path), media_private_hosts=served.host) == 0
    colors = {1: RED, 2: GREEN, 3: GREEN, 4: BLUE}
    assert same(vectors(db), {key: expected(encoded(picture(color))) for key, color in colors.items()})


@pytest.mark.parametrize("type", ["text[]", "jsonb", "bytea[]"])
def test_a_list_of_pictures_is_one_document_and_nulls_are_left_out(db: Connection, drain: Drain, type: str) -> None:
    make(db, type)
    first, second = encoded(picture(RED)), encoded(picture(BLUE))
    values: list[object] = [first, None, second]
    if type != "bytea[]":
        values = [data_uri(value) if isinstance(value, bytes) else None for value in values]
    put(db, json.dumps(values) if type == "jsonb" else values)
    db.execute("INSERT INTO products VALUES (2, NULL, %s), (3, NULL, %s)", ("[]" if type == "jsonb" else "{}", None))
    assert drain() == 0
    assert same(vectors(db), {1: expected(first, second)})
    assert db.execute("SELECT count(*) FROM pgmeaning.queue").fetchone() == (0,)


def test_videos_are_embedded_from_their_bytes(db: Connection, drain: Drain) -> None:
    make(db, medium="video")
    put(db, video(), animation([RED, GREEN, BLUE]))
    assert drain() == 0
    wanted = {1: expected(videos=(video(),)), 2: expected(videos=(animation([RED, GREEN, BLUE]),))}
    assert same(vectors(db), wanted)


# What goes wrong


def test_a_bad_picture_fails_alone_and_says_why(db: Connection, drain: Drain) -> None:
    make(db)
    good = encoded(picture((1, 2, 3)))
    photo = encoded(noise(), "JPEG")
    put(db, good, photo[: len(photo) // 2], b"%PDF-1.7 ...", b"", b"<svg xmlns='http://www.w3.org/2000/svg'/>", good)
    assert drain(attempts=1) == 1
    assert set(vectors(db)) == {1, 6}
    errors = failures(db)
    assert set(errors) == {2, 3, 4, 5}
    assert "truncated" in errors[2]
    assert "a PDF document" in errors[3]
    assert "empty" in errors[4]
    assert "an SVG drawing" in errors[5]
