"""Rows with images and video: every way to hold one, what goes wrong with one, and searching by one."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

import pgmeaning
from pgmeaning import Client
from pgmeaning.errors import CollectionError, DatabaseError, InputError
from pgmeaning.models.vectors import Vectors
from pgmeaning.settings import Settings
from pgmeaning.sidecar import read as reading
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.types import Document, Row
from tests.conftest import running, wait_until
from tests.images import BLUE, GREEN, RED, Web, animation, answering, data_uri, encoded, noise, plain_image, video, web
from tests.integration.embedders import Watched
from tests.types import Connection, Drain


@pytest.fixture
def client(dsn: str) -> Iterator[Client]:
    with pgmeaning.connect(dsn) as opened:
        yield opened


@pytest.fixture
def served() -> Iterator[Web]:
    with web() as served:
        yield served


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
    return bytes(pgmeaning.load_embedder("synthetic-384").embed_documents([document])[0].tobytes())


def same(found: dict[int, bytes], wanted: dict[int, bytes]) -> bool:
    return found.keys() == wanted.keys() and all(
        np.allclose(np.frombuffer(found[key], np.float32), np.frombuffer(wanted[key], np.float32), atol=1e-6)
        for key in wanted
    )


# Where an image is


def test_an_image_in_bytea_is_embedded_from_its_bytes(db: Connection, drain: Drain) -> None:
    make(db)
    put(db, encoded(plain_image(RED)), encoded(plain_image(BLUE), "JPEG"), None)
    assert drain() == 0
    assert same(vectors(db), {1: expected(encoded(plain_image(RED))), 2: expected(encoded(plain_image(BLUE), "JPEG"))})


def test_an_image_with_a_text_is_one_document(db: Connection, drain: Drain) -> None:
    make(db, columns=True)
    put(db, encoded(), title="a red square")
    db.execute("INSERT INTO products VALUES (2, 'no image', NULL), (3, NULL, %s), (4, NULL, NULL)", (encoded(),))
    assert drain() == 0
    wanted = {1: expected(encoded(), text="a red square"), 2: expected(text="no image"), 3: expected(encoded())}
    assert same(vectors(db), wanted)


def test_data_uris_paths_and_urls_stand_for_their_bytes(
    db: Connection, drain: Drain, tmp_path: Path, served: Web
) -> None:
    make(db, "text")
    (tmp_path / "photo.png").write_bytes(encoded(plain_image(GREEN)))
    served.answers["/photo.png"] = answering(encoded(plain_image(BLUE)))
    put(db, data_uri(encoded()), str(tmp_path / "photo.png"), "photo.png", served.url("/photo.png"))
    assert drain(media_folders=str(tmp_path), media_private_hosts=served.host) == 0
    colors = {1: RED, 2: GREEN, 3: GREEN, 4: BLUE}
    assert same(vectors(db), {key: expected(encoded(plain_image(color))) for key, color in colors.items()})


@pytest.mark.parametrize("type", ["text[]", "jsonb", "bytea[]"])
def test_a_list_of_images_is_one_document_and_nulls_are_left_out(db: Connection, drain: Drain, type: str) -> None:
    make(db, type)
    first, second = encoded(plain_image(RED)), encoded(plain_image(BLUE))
    values: list[object] = [first, None, second]
    if type != "bytea[]":
        values = [data_uri(value) if isinstance(value, bytes) else None for value in values]
    put(db, json.dumps(values) if type == "jsonb" else values)
    empty, nothing = ("[]", "[null]") if type == "jsonb" else ("{}", "{NULL}")
    db.execute("INSERT INTO products VALUES (2, NULL, %s), (3, NULL, %s), (4, NULL, NULL)", (empty, nothing))
    assert drain() == 0
    assert same(vectors(db), {1: expected(first, second)})
    assert db.execute("SELECT count(*) FROM pgmeaning.queue").fetchone() == (0,)


@pytest.mark.parametrize("type", ["text[]", "jsonb", "bytea[]"])
def test_a_list_of_nothing_owes_no_vector(db: Connection, drain: Drain, type: str) -> None:
    make(db, type)
    db.execute("INSERT INTO products VALUES (1, NULL, %s)", ("[null, null]" if type == "jsonb" else "{NULL,NULL}",))
    assert drain() == 0
    assert vectors(db) == {}
    assert db.execute("SELECT count(*) FROM pgmeaning.queue").fetchone() == (0,)


def test_videos_are_embedded_from_their_bytes(db: Connection, drain: Drain) -> None:
    make(db, medium="video")
    put(db, video(), animation([RED, GREEN, BLUE]))
    assert drain() == 0
    wanted = {1: expected(videos=(video(),)), 2: expected(videos=(animation([RED, GREEN, BLUE]),))}
    assert same(vectors(db), wanted)


# What goes wrong


def test_a_bad_image_fails_alone_and_says_why(db: Connection, drain: Drain) -> None:
    make(db)
    good = encoded(plain_image((1, 2, 3)))
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


def test_a_row_of_too_many_pixels_fails_alone_and_says_which_setting_allows_more(db: Connection, drain: Drain) -> None:
    make(db, type="bytea[]")
    image = encoded(plain_image(size=(300, 300)))
    put(db, [image] * 2, [image] * 3)
    assert drain(attempts=1, media_row_pixels=200_000) == 1
    assert set(vectors(db)) == {1}
    assert failures(db) == {
        2: "the images of a row come to 270,000 pixels with all their frames, more than the 200,000 allowed "
        "(PGMEANING_MEDIA_ROW_PIXELS allows more)"
    }


def test_an_empty_text_in_place_of_an_image_is_called_so(db: Connection, drain: Drain) -> None:
    make(db, "text")
    put(db, "", " ", data_uri(encoded()))
    assert drain(attempts=1) == 1
    assert set(vectors(db)) == {3}
    assert set(failures(db)) == {1, 2}
    for error in failures(db).values():
        assert error == "an image or video is named by an empty text (write NULL where there is none)"


def test_a_path_or_url_that_is_not_allowed_fails_its_row(
    db: Connection, drain: Drain, tmp_path: Path, served: Web
) -> None:
    make(db, "text")
    (tmp_path / "photo.png").write_bytes(encoded())
    served.answers["/photo.png"] = answering(encoded())
    put(db, str(tmp_path / "photo.png"), served.url("/photo.png"), "no such file", data_uri(encoded()))
    assert drain(attempts=1) == 1
    assert set(vectors(db)) == {4}
    errors = failures(db)
    assert "PGMEANING_MEDIA_FOLDERS" in errors[1]
    assert "PGMEANING_MEDIA_HOSTS" in errors[2]
    assert served.asked == []


@pytest.mark.parametrize("type", ["bytea", "text"])
def test_an_image_that_is_too_large_fails_without_being_read_whole(db: Connection, drain: Drain, type: str) -> None:
    make(db, type)
    large = encoded(noise((200, 200)))
    put(db, *([large, encoded()] if type == "bytea" else [data_uri(large), data_uri(encoded())]))
    assert drain(attempts=1, media_max_bytes=20_000) == 1
    assert set(vectors(db)) == {2}
    assert "20,000 allowed" in failures(db)[1]


@pytest.mark.parametrize("value", ["7", '{"url": "a.png"}', '[["a.png"]]', "true"])
def test_json_that_names_no_image_fails_its_row(db: Connection, drain: Drain, value: str) -> None:
    make(db, "jsonb")
    put(db, value, json.dumps(data_uri(encoded())))
    assert drain(attempts=1) == 1
    assert set(vectors(db)) == {2}
    assert "is not an image" in failures(db)[1]


def test_more_images_than_a_row_may_have_fail_it(db: Connection, drain: Drain) -> None:
    make(db, "text[]")
    put(db, [data_uri(encoded())] * 33, [data_uri(encoded())] * 32)
    assert drain(attempts=1) == 1
    assert set(vectors(db)) == {2}
    assert "33 images" in failures(db)[1]


def test_a_url_that_fails_for_a_while_is_tried_again(db: Connection, drain: Drain, served: Web) -> None:
    make(db, "text")

    def recovering(handler: BaseHTTPRequestHandler) -> None:
        answering(*((b"", 503) if len(served.asked) == 1 else (encoded(), 200)))(handler)

    served.answers["/photo.png"] = recovering
    put(db, served.url("/photo.png"))
    assert drain(media_private_hosts=served.host, backoff=0.01) == 0
    assert same(vectors(db), {1: expected(encoded())})


def test_a_slow_url_holds_up_no_text(dsn: str, db: Connection, served: Web) -> None:
    make(db, "text")
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', ARRAY['body'])")
    go_on = threading.Event()

    def waiting(handler: BaseHTTPRequestHandler) -> None:
        go_on.wait(60)
        answering(encoded())(handler)

    served.answers["/slow.png"] = waiting
    settings = Settings(media_private_hosts=served.host, media_rows=1, media_timeout=60, media_threads=1)
    with running(Sidecar(dsn, settings)):
        put(db, *[served.url("/slow.png")] * 4)
        wait_until(lambda: served.asked)
        db.execute("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 50) AS i")
        wait_until(lambda: db.execute("SELECT count(*) FROM docs_embedding").fetchone() == (50,))
        assert vectors(db) == {}
        go_on.set()
        wait_until(lambda: len(vectors(db)) == 4)


def test_no_transaction_is_open_while_a_url_is_fetched(dsn: str, db: Connection, served: Web) -> None:
    make(db, "text")
    ended = threading.Event()
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"

    def looking(handler: BaseHTTPRequestHandler) -> None:
        with psycopg.connect(dsn, autocommit=True) as other:
            # Other threads have transactions, for a moment each.
            wait_until(lambda: other.execute(query).fetchone() == (0,))
        ended.set()
        answering(encoded())(handler)

    served.answers["/photo.png"] = looking
    put(db, served.url("/photo.png"))
    assert Sidecar(dsn, Settings(media_private_hosts=served.host, media_timeout=60)).run(drain=True) == 0
    assert ended.is_set()


# What changes, and what is the same


def test_another_image_is_embedded_anew_and_the_same_one_is_not(dsn: str, db: Connection) -> None:
    make(db, columns=True)
    watched = Watched()
    put(db, encoded(plain_image(RED)), title="a")
    assert Sidecar(dsn, Settings(), load=watched.load).run(drain=True) == 0
    before = vectors(db)
    db.execute("UPDATE products SET photo = %s", (encoded(plain_image(RED)),))
    assert Sidecar(dsn, Settings(), load=watched.load).run(drain=True) == 0
    assert watched.embedded.total() == 1
    db.execute("UPDATE products SET photo = %s", (encoded(plain_image(BLUE)),))
    assert Sidecar(dsn, Settings(), load=watched.load).run(drain=True) == 0
    assert same(vectors(db), {1: expected(encoded(plain_image(BLUE)), text="a")})
    assert vectors(db) != before


def test_an_image_taken_away_leaves_the_text_or_nothing(db: Connection, drain: Drain) -> None:
    make(db, columns=True)
    put(db, encoded(), title="a")
    db.execute("INSERT INTO products VALUES (2, NULL, %s)", (encoded(),))
    assert drain() == 0
    db.execute("UPDATE products SET photo = NULL")
    assert drain() == 0
    assert same(vectors(db), {1: expected(text="a")})


def test_a_reconcile_finds_an_image_that_changed_unseen(db: Connection, drain: Drain) -> None:
    make(db)
    put(db, encoded(plain_image(RED)), encoded(plain_image(GREEN)))
    assert drain() == 0
    db.execute("SET session_replication_role = replica")
    db.execute("UPDATE products SET photo = %s WHERE id = 2", (encoded(plain_image(BLUE)),))
    db.execute("RESET session_replication_role")
    db.execute("SELECT pgmeaning.refresh('products')")
    assert drain() == 0
    assert same(vectors(db), {1: expected(encoded(plain_image(RED))), 2: expected(encoded(plain_image(BLUE)))})


def test_the_same_image_in_many_rows_is_embedded_once(dsn: str, db: Connection) -> None:
    make(db)
    put(db, *[encoded(plain_image(color)) for color in (RED, BLUE) * 8])
    watched = Watched()
    assert Sidecar(dsn, Settings(), load=watched.load).run(drain=True) == 0
    assert watched.embedded.total() == 2
    assert len(vectors(db)) == 16


def test_a_claim_of_images_is_a_small_one(dsn: str, db: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    make(db)
    put(db, *[encoded(plain_image((number, 0, 0))) for number in range(20)])
    read: list[int] = []
    original = reading.read_rows

    def counting(*given: Any) -> list[Row]:
        read.append(len(given[3]))
        return original(*given)

    monkeypatch.setattr(reading, "read_rows", counting)
    assert Sidecar(dsn, Settings(media_rows=4)).run(drain=True) == 0
    assert max(read) <= 4
    assert len(vectors(db)) == 20


def test_an_image_too_long_for_a_text_in_json_holds_up_no_scan(db: Connection, drain: Drain) -> None:
    db.execute("CREATE TABLE products (id int PRIMARY KEY, title text, photo bytea)")
    db.execute("ALTER TABLE products ALTER photo SET STORAGE EXTERNAL")
    db.execute(
        "INSERT INTO products VALUES (1, NULL, decode(repeat('00', 140000000), 'hex')), (2, NULL, %s)", (encoded(),)
    )
    db.execute("SELECT pgmeaning.attach('products', image => 'photo')")
    assert drain(attempts=1) == 1
    assert set(vectors(db)) == {2}
    assert "67,108,864 allowed" in failures(db)[1]


# Searching


@pytest.fixture
def shop(db: Connection, drain: Drain) -> None:
    """Three products with an image each."""
    make(db)
    put(db, *[encoded(plain_image(color)) for color in (RED, GREEN, BLUE)])
    assert drain() == 0


@pytest.mark.usefixtures("shop")
def test_searching_by_an_image_finds_the_row_that_has_it(client: Client, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(data := encoded(plain_image(GREEN)))
    for image in (tmp_path / "photo.png", str(tmp_path / "photo.png"), data, data_uri(data), [data]):
        found = client.search("products", image=image, k=2)
        assert found[0].key == {"id": 2}
        assert len(found) == 2
        assert found[0].distance == pytest.approx(0, abs=1e-6)
        assert found[0].row["photo"] == data


@pytest.mark.usefixtures("shop")
def test_a_filter_holds_for_an_image_too(client: Client) -> None:
    found = client.search("products", image=encoded(plain_image(GREEN)), filter="id <> 2")
    assert {hit.key["id"] for hit in found} == {1, 3}


def test_a_query_of_text_and_image_is_one_document(client: Client, db: Connection, drain: Drain) -> None:
    make(db, columns=True)
    put(db, encoded(plain_image(RED)), encoded(plain_image(RED)), title="red")
    db.execute("UPDATE products SET title = 'crimson' WHERE id = 2")
    assert drain() == 0
    (best, *_) = client.search("products", "crimson", image=encoded(plain_image(RED)))
    assert best.key == {"id": 2}
    assert best.distance == pytest.approx(0, abs=1e-6)


def test_searching_by_a_video(client: Client, db: Connection, drain: Drain) -> None:
    make(db, medium="video")
    put(db, video(), animation([RED, BLUE]))
    assert drain() == 0
    assert client.search("products", video=animation([RED, BLUE]), k=1)[0].key == {"id": 2}


def test_a_collection_of_shortened_vectors_is_searched_with_shortened_queries(
    client: Client, db: Connection, drain: Drain
) -> None:
    db.execute("CREATE TABLE products (id int PRIMARY KEY, photo bytea)")
    client.attach("products", image="photo", dimensions=64)
    db.execute("INSERT INTO products VALUES (1, %s), (2, %s)", (encoded(plain_image(RED)), encoded(plain_image(BLUE))))
    assert drain() == 0
    found = client.search("products", image=encoded(plain_image(BLUE)), k=1)[0]
    assert found.key == {"id": 2}
    assert found.distance == pytest.approx(0, abs=1e-6)


def test_an_image_of_ones_own_is_embedded_here(client: Client) -> None:
    vector = client.embed(image=plain_image(RED))
    assert vector.shape == (384,)
    again = pgmeaning.load_embedder("synthetic-384").embed_queries([{"image": plain_image(RED)}])[0]
    assert np.allclose(vector, again)
    assert not np.allclose(vector, client.embed(image=plain_image(BLUE)), atol=0.1)
    assert not np.allclose(vector, client.embed("red", image=plain_image(RED)), atol=0.1)


def test_a_search_for_nothing_or_for_no_image_is_refused(client: Client, shop: None) -> None:
    with pytest.raises(InputError, match="no text, image or video"):
        client.search("products")
    with pytest.raises(InputError, match="a PDF document"):
        client.search("products", image=b"%PDF-1.7")
    with pytest.raises(InputError, match="no file"):
        client.search("products", image="nowhere.png")
    with pytest.raises(InputError, match="PGMEANING_MEDIA_HOSTS"):
        client.search("products", image="https://images.example/a.png")
    with pytest.raises(InputError, match="takes no image"):
        client.embed(image=plain_image(), model="all-MiniLM-L6-v2")
    with pytest.raises(CollectionError, match="no collection 'nope'"):
        client.search("nope", image=plain_image())


def test_the_command_line_searches_by_image(dsn: str, shop: None, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(encoded(plain_image(BLUE)))
    found = run_cli("search", "products", "--image", str(tmp_path / "photo.png"), "--json", "-k", "1", dsn=dsn)
    assert found.returncode == 0
    assert json.loads(found.stdout)[0]["key"] == {"id": 3}
    shown = run_cli("search", "products", "--image", str(tmp_path / "photo.png"), dsn=dsn)
    assert f"{len(encoded(plain_image(BLUE)))} bytes" in shown.stdout
    nothing = run_cli("search", "products", dsn=dsn)
    assert nothing.returncode == 2
    assert "--image" in nothing.stderr


def run_cli(*arguments: str, dsn: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pgmeaning", *arguments, "--dsn", dsn]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


# Reranking


class Judge:
    """A reranker that notes what it is given, and prefers larger images."""

    def __init__(self) -> None:
        self.query = Document()
        self.documents: list[Document] = []

    def score(self, query: Document, documents: Sequence[Document], instruction: str | None = None) -> Vectors:
        self.query, self.documents = query, list(documents)
        return np.asarray([sum(map(len, document.images)) / 1e6 for document in documents], np.float32)


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Judge:
    """Whatever reranker is named, this one judges."""
    judge = Judge()
    monkeypatch.setattr("pgmeaning.client.client.loaded_reranker", lambda model: judge)
    return judge


def test_a_reranker_that_takes_images_gets_those_of_the_rows(
    client: Client, db: Connection, drain: Drain, judge: Judge
) -> None:
    make(db, columns=True)
    put(db, encoded(plain_image(RED)), encoded(noise()), title="thing")
    db.execute("INSERT INTO products VALUES (3, 'no image', NULL), (4, NULL, %s)", (encoded(plain_image(BLUE)),))
    assert drain() == 0
    found = client.search("products", image=encoded(), rerank=4, reranker="Qwen3-VL-Reranker-2B")
    assert found[0].key == {"id": 2}
    assert judge.query.images == (encoded(),)
    assert sorted((document.text or "", len(document.images)) for document in judge.documents) == [
        ("", 1), ("no image", 0), ("thing", 1), ("thing", 1),
    ]  # fmt: skip


def test_a_reranker_of_texts_gets_texts_and_no_image_to_look_for(
    client: Client, db: Connection, drain: Drain, judge: Judge, sidecar: Sidecar
) -> None:
    make(db, columns=True)
    put(db, encoded(), title="thing")
    client.wait_for("products")
    client.search("products", "thing", rerank=4, reranker=judge)
    assert judge.documents == [Document(text="thing")]
    with pytest.raises(InputError, match="takes no image"):
        client.search("products", image=encoded(), rerank=4, reranker="all-MiniLM-L6-v2-late-interaction")


def test_rows_from_anywhere_are_reranked_with_their_images() -> None:
    judge = Judge()
    rows = [{"photo": encoded()}, {"photo": [encoded(noise()), None]}, {"photo": None}]
    ranked = pgmeaning.rerank({"image": plain_image()}, rows, image="photo", reranker=judge)
    assert [result.index for result in ranked] == [1, 0, 2]


def test_a_sidecars_reranker_judges_no_collection_without_text(client: Client, db: Connection, drain: Drain) -> None:
    make(db)
    put(db, encoded())
    assert drain() == 0
    with pytest.raises(DatabaseError, match="no text for a sidecar's reranker"):
        client.search("products", "thing", rerank=4, reranker="all-MiniLM-L6-v2-late-interaction")
