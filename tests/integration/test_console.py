"""The page: who gets in, what it shows, and that the SQL and the Python it shows give the same answer."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import psycopg
import pytest
from PIL import Image
from psycopg import sql
from psycopg.conninfo import make_conninfo

import pgmeaning
from pgmeaning.database.loopback import ensure_loopback
from pgmeaning.errors import ArgumentError
from pgmeaning.evaluation import read_queries
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests import conftest
from tests.conftest import running, wait_until
from tests.images import encoded, plain_image
from tests.integration import console
from tests.needs import needs_package

for extra in ("starlette", "uvicorn", "jinja2"):
    needs_package(extra, "ui")

from pgmeaning.console import serving  # noqa: E402
from pgmeaning.console.judgements import Judgements, same_key  # noqa: E402
from pgmeaning.console.marking import in_document  # noqa: E402
from pgmeaning.console.operations import Rates, told  # noqa: E402
from pgmeaning.console.projection import Components, arranged  # noqa: E402

KINDS = ("vectors", "words", "hybrid", "reranked")


@pytest.fixture(scope="module")
def dsn_of_all(server_dsn: str, template: str) -> Iterator[str]:
    """One database for the module, with a sidecar; everything in it is embedded."""
    name = f"{template}_console"
    conftest._create(server_dsn, name, template)
    dsn = make_conninfo(server_dsn, dbname=name)
    with psycopg.connect(dsn, autocommit=True) as db:
        ensure_loopback(db)
        console.make(db)
        with running(Sidecar(dsn, Settings(maintenance=0.5))):
            owed = "SELECT sum(owed) FROM pgmeaning.status"
            wait_until(lambda: (db.execute(owed).fetchone() or (1,))[0] == 0, timeout=120)
            yield dsn
    conftest._drop(server_dsn, name)


@pytest.fixture(scope="module")
def judgements(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what is thought of results."""
    return tmp_path_factory.mktemp("page") / "judgements"


@pytest.fixture(scope="module")
def address(dsn_of_all: str, judgements: Path) -> Iterator[str]:
    """The page's, with its token."""
    with serving(dsn_of_all, judgements=judgements) as url:
        yield url


@pytest.fixture(scope="module")
def base(address: str) -> str:
    return f"http://{urlsplit(address).netloc}"


@pytest.fixture(scope="module")
def http(address: str) -> Iterator[httpx.Client]:
    """A browser's session: it followed the address, and has the cookie."""
    with httpx.Client(base_url=address.partition("/?")[0], follow_redirects=True, timeout=60) as client:
        assert client.get(address).status_code == 200
        yield client


def searched(http: httpx.Client, kind: str, query: str = "", collection: str = "recipes", **more: Any) -> str:
    given = {"kind": kind, "collection": collection, "query": query, "k": 5, **more}
    return http.post("/column", json=given).text


def keys(column: str) -> list[dict[str, Any]]:
    return [json.loads(unescape(key)) for key in re.findall(r'data-key="([^"]*)"', column)]


def code(column: str, language: str) -> str:
    [found] = re.findall(rf'data-language="{language}"[^>]*>([^<]*)</pre>', column)
    return unescape(found)


# ---------------------------------------------------------------- Who gets in


def test_the_token_is_exchanged_for_a_cookie_that_scripts_and_other_sites_do_not_get(address: str, base: str) -> None:
    answer = httpx.get(f"{address}&query=rice")
    assert (answer.status_code, answer.headers["location"]) == (303, "/?query=rice")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


@pytest.mark.parametrize("path", ["/", "/?token=wrong", "/static/page.css", "/image?collection=photos&key=1"])
def test_without_it_nothing_is_shown(base: str, path: str) -> None:
    assert httpx.get(f"{base}{path}").status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "["])
def test_a_strangers_name_that_leads_here_is_turned_away(http: httpx.Client, host: str) -> None:
    assert http.get("/", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("headers", [{"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}])
def test_another_sites_page_may_not_post(http: httpx.Client, headers: dict[str, str]) -> None:
    assert http.post("/column", json={}, headers=headers).status_code == 403


def test_the_policy_allows_no_script_but_the_pages_own_files(http: httpx.Client) -> None:
    answer = http.get("/")
    assert "script-src 'self';" in answer.headers["content-security-policy"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|style=", answer.text)
    assert not re.search(r'(src|href)="(https?:)?//', answer.text)


# ---------------------------------------------------------------- Columns


@pytest.mark.parametrize("kind", KINDS)
def test_the_sql_that_is_shown_gives_the_same_rows(http: httpx.Client, dsn_of_all: str, kind: str) -> None:
    column = searched(http, kind, "how to cook it's rice", filter="minutes <= 60 AND topic <> 'o''clock'", rerank=12)
    with psycopg.connect(dsn_of_all, autocommit=True) as db:
        rows = db.execute(code(column, "sql").encode()).fetchall()
    assert len(rows) == 5
    assert [row[0] for row in rows] == keys(column)


@pytest.mark.parametrize("kind", KINDS)
def test_the_python_that_is_shown_gives_the_same_rows(
    http: httpx.Client, dsn_of_all: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    column = searched(http, kind, "how to cook it's rice", filter="minutes <= 60", rerank=12)
    for name, value in psycopg.conninfo.conninfo_to_dict(dsn_of_all).items():
        names = {"dbname": "PGDATABASE", "host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD"}
        if name in names:
            monkeypatch.setenv(names[name], str(value))
    printed = io.StringIO()
    names_of_program: dict[str, Any] = {}
    with contextlib.redirect_stdout(printed):
        exec(code(column, "python"), names_of_program)  # noqa: S102  # what the page shows is run as its reader would
    names_of_program["client"].close()
    lines = [line for line in printed.getvalue().splitlines() if line.startswith("{")]  # the sidecar logs, too
    assert [line.rpartition(" ")[0] for line in lines] == [str(key) for key in keys(column)]


def test_words_of_the_query_are_marked_in_any_of_their_forms(http: httpx.Client) -> None:
    column = searched(http, "words", "onion boiling")
    assert "<mark>Onions</mark> cooked brown" in column
    assert "<mark>boiled</mark> with cumin" in column


def test_a_phase_is_told_with_its_time(http: httpx.Client) -> None:
    assert re.search(r"<span>the query&#39;s vector [\d.]+ ms</span>", searched(http, "vectors", "soup"))
    assert re.search(r"<span>rerank 7 rows [\d.]+ ms</span>", searched(http, "reranked", "soup", rerank=7))


def test_values_of_the_database_are_text_wherever_they_are_shown(http: httpx.Client) -> None:
    column = searched(http, "words", "evil", "strange")
    [key] = keys(column)
    document = http.post("/document", json={"collection": "strange", "key": json.dumps(key), "chunk": ""}).text
    for shown in (column, document):
        assert "&lt;script&gt;" in shown
        assert "<script" not in shown
        assert "<img" not in shown


def test_a_column_that_fails_says_why_and_what_to_do(http: httpx.Client, dsn_of_all: str) -> None:
    column = searched(http, "words", "wash", "photos")
    with psycopg.connect(dsn_of_all) as db:
        db.execute("DROP EXTENSION IF EXISTS pg_trgm")
    assert "has no words to search by" in column
    assert "attach(..., language =&gt; &#39;english&#39;)" in column
    assert keys(searched(http, "vectors", "wash", "photos"))


@pytest.mark.parametrize(
    ("filter", "said"),
    [
        ("no_such_column = 1", "no_such_column"),
        ("minutes <", "syntax error"),
        ("(SELECT set_config('default_transaction_read_only', 'off', false)) IS NULL", ""),
        ("wrote(id)", "read-only transaction"),
    ],
)
def test_a_filter_is_sql_that_cannot_write(http: httpx.Client, dsn_of_all: str, filter: str, said: str) -> None:
    with psycopg.connect(dsn_of_all, autocommit=True) as db:
        db.execute("CREATE TABLE IF NOT EXISTS written (id int)")
        db.execute(
            "CREATE OR REPLACE FUNCTION wrote(int) RETURNS bool LANGUAGE sql "
            "AS 'INSERT INTO public.written VALUES ($1) RETURNING true'"
        )
        assert said in searched(http, "vectors", "rice", filter=filter)
        assert "read-only transaction" in searched(http, "vectors", "rice", filter="wrote(id)")
        assert db.execute("SELECT * FROM written").fetchall() == []


def test_a_chunk_is_shown_in_its_document(http: httpx.Client) -> None:
    column = searched(http, "vectors", "my pan is on fire", "handbook")
    [text] = re.findall(r'data-key="[^"]*" data-rank="1" data-chunk>.*?<p class="text">(.*?)</p>', column, re.DOTALL)
    chunk = unescape(re.sub("<[^>]*>", "", text))
    assert "Never pour water" in chunk
    document = http.post("/document", json={"collection": "handbook", "key": '{"id": 1}', "chunk": chunk}).text
    [marked] = re.findall(r'<mark class="chunk">(.*?)</mark>', document, re.DOTALL)
    assert "Never pour water" in marked
    assert "A sharp knife" in document
    assert "A sharp knife" not in marked


def test_a_chunk_below_headings_that_are_elsewhere_in_the_document_is_found() -> None:
    assert in_document("# A\n\nx\n\ny", "# A\ny") == [("# A\n\nx\n\n", False), ("y", True)]
    assert in_document("another text by now", "the chunk") == [("another text by now", False)]


def test_an_image_finds_rows_and_has_no_words(http: httpx.Client) -> None:
    image = "data:image/png;base64," + base64.b64encode(encoded(plain_image())).decode()
    assert len(keys(searched(http, "vectors", collection="photos", image=image))) == 3
    assert "an image has no words" in searched(http, "words", collection="photos", image=image)
    assert "takes no image" in searched(http, "vectors", image=image)


def test_a_thumbnail_is_made_anew(http: httpx.Client) -> None:
    answer = http.get("/image", params={"collection": "photos", "key": '{"id": 1}'})
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(answer.content)).size == (320, 200)


@pytest.mark.parametrize("key", ['{"id": 4}', '{"id": 99}', "nonsense"])
def test_what_is_no_image_is_said(http: httpx.Client, key: str) -> None:
    answer = http.get("/image", params={"collection": "photos", "key": key})
    assert answer.status_code in (400, 404)
    assert 'class="problem"' in answer.text


@pytest.mark.parametrize(
    "given", [[], {}, {"query": " "}, {"query": "x", "k": "many"}, {"query": "x", "k": 0},
              {"image": "data:text/html,x"}, {"query": "x", "kind": "magic"}, {"query": ["x"]}],
)  # fmt: skip
def test_a_request_that_makes_no_sense_is_refused(http: httpx.Client, given: Any) -> None:
    assert http.post("/column", json=given).status_code == 400


def test_a_picture_that_is_too_large_is_refused(http: httpx.Client) -> None:
    assert http.post("/column", content=b"x" * (17 * 1024 * 1024)).status_code == 400


# ---------------------------------------------------------------- The database goes away


def test_a_connection_that_was_cut_is_replaced(http: httpx.Client, dsn_of_all: str) -> None:
    assert keys(searched(http, "vectors", "rice"))
    with psycopg.connect(dsn_of_all, autocommit=True) as db:
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgmeaning client'"
        db.execute(cut)
    assert keys(searched(http, "vectors", "rice"))


# ---------------------------------------------------------------- Operations


def test_everything_that_goes_on_is_shown_at_one_look(http: httpx.Client) -> None:
    shown = http.get("/operations/now").text
    headings = ["Collections", "Failures", "Sidecars", "Models", "Indexes"]
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", shown) == headings
    assert set(re.findall(r'data-id="c-(\w+)"', shown)) == {"handbook", "photos", "recipes", "strange"}
    assert "alive" in shown
    assert "all-MiniLM-L6-v2" in shown
    assert re.search(r"photos</th><td class=\"key\">\{&#34;id&#34;: 4\}", shown)


def test_failed_rows_are_tried_again_only_where_writing_is_allowed(http: httpx.Client, dsn_of_all: str) -> None:
    assert 'class="small retry"' not in http.get("/operations/now").text
    refused = http.post("/retry", json={"collection": "photos"})
    assert (refused.status_code, "pgmeaning ui --write" in refused.text) == (400, True)
    with serving(dsn_of_all, write=True) as url, httpx.Client(follow_redirects=True, timeout=60) as writer:
        base = str(writer.get(url).url)
        assert 'class="small retry"' in writer.get(f"{base}operations/now").text
        assert "1 rows of photos" in writer.post(f"{base}retry", json={"collection": "photos"}).text


def test_a_rate_is_of_the_last_minute() -> None:
    rates = Rates()
    assert rates.saw({"docs": 100}, 0.0) == {"docs": None}
    assert rates.saw({"docs": 160}, 30.0) == {"docs": 2.0}
    assert rates.saw({"docs": 160}, 90.0) == {"docs": 0.0}
    assert rates.saw({"docs": 5}, 91.0) == {"docs": None}  # another one of that name
    assert [told(seconds) for seconds in (0.2, 200, 7300, 90000)] == ["0 s", "3 min 20 s", "2 h 1 min", "1 d 1 h"]


# ---------------------------------------------------------------- Judgements


def judge(http: httpx.Client, query: str, key: str, grade: str, collection: str = "recipes") -> httpx.Response:
    return http.post("/judge", json={"collection": collection, "query": query, "key": key, "grade": grade})


@pytest.mark.parametrize("line", ['{"query": "a", "grades": ["high"], "relevant": [1]}', "[" * 5000, "\udcff"])
def test_a_file_of_judgements_that_makes_no_sense_is_an_error_in_words(tmp_path: Path, line: str) -> None:
    (tmp_path / "docs.jsonl").write_bytes(line.encode(errors="surrogateescape"))
    with pytest.raises(ArgumentError):
        Judgements(tmp_path).of("docs", "a")


def test_what_is_judged_is_measured_by_evaluate(http: httpx.Client, dsn_of_all: str, judgements: Path) -> None:
    for key, grade in (("10", "up"), ("11", "up"), ("18", "down"), ("12", "up"), ("12", "")):
        said = judge(http, "a hot soup", f'{{"id": {key}}}', grade)
    file = judgements / "recipes.jsonl"
    assert f"pgmeaning evaluate recipes --queries {file}" in said.text
    [query] = read_queries(file).queries
    assert query.relevant == (({"id": 10}, 1), ({"id": 11}, 1))
    with pgmeaning.connect(dsn_of_all) as client:
        measured = client.evaluate("recipes", file, record=False).measured[0].measures
    assert measured["nDCG@10"].mean > 0.9
    column = searched(http, "vectors", "a hot soup", k=24)
    pressed = re.findall(r'data-grade="(\w+)" aria-pressed="true" aria-label="[^:]*: (\w+)"', column)
    assert sorted(pressed) == [("down", "18"), ("up", "10"), ("up", "11")]
    assert http.get("/judgements", params={"collection": "recipes"}).text == file.read_text()


def test_what_others_wrote_into_the_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "docs.jsonl"
    tagged = '{"query": "a", "relevant": 1, "tags": ["x"], "id": "first"}'
    file.write_text(f'{tagged}\n\n{{"query": "b", "relevant": [3], "grade": 2}}')
    kept = Judgements(tmp_path)
    kept.judge("docs", "a", {"id": 7}, 0)
    kept.judge("docs", "c", {"id": 1}, 1)
    kept.judge("docs", "b", {"id": 3}, None)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[0] == {"query": "a", "tags": ["x"], "id": "first", "relevant": [1, {"id": 7}], "grades": [1, 0]}
    assert lines[1] == {"query": "b", "relevant": [], "grades": []}
    assert len(read_queries(file).queries) == 3


def test_a_file_that_is_none_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "docs.jsonl").write_text("notes of mine\n")
    with pytest.raises(ArgumentError, match="line 1"):
        Judgements(tmp_path).judge("docs", "a", 1, 1)
    assert (tmp_path / "docs.jsonl").read_text() == "notes of mine\n"


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", "a/b", "docs@2"])
def test_no_collections_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    assert Judgements(tmp_path).file(name).resolve().parent == tmp_path.resolve()


# ---------------------------------------------------------------- The map


def charted(http: httpx.Client, collection: str = "recipes", **more: Any) -> dict[str, Any]:
    """The map, once it is made."""
    found: list[dict[str, Any]] = []

    def is_made() -> bool:
        answer = http.post("/map/points", json={"collection": collection, "method": "pca", **more})
        found[:] = [answer.json()]
        more.clear()
        return "x" in found[0]

    wait_until(is_made)
    return found[0]


def of_map(http: httpx.Client, what: str, collection: str = "recipes", **given: Any) -> httpx.Response:
    return http.post(f"/map/{what}", json={"collection": collection, "method": "pca", **given})


def test_each_row_is_a_point_and_clusters_have_words(http: httpx.Client) -> None:
    made = charted(http)
    assert len(made["x"]) == len(made["y"]) == len(made["clusters"]) == made["total"] == 24
    assert (min(made["x"]), max(made["x"]), min(made["y"]), max(made["y"])) == (0, 65535, 0, 65535)
    assert sum(group["size"] for group in made["groups"]) == 24
    assert any("soup" in group["words"] for group in made["groups"])


def test_points_have_the_colours_of_a_columns_values(http: httpx.Client) -> None:
    charted(http)
    topics = of_map(http, "colours", column="topic").json()
    assert topics["labels"] == ["main", "side", "sweet", "soup", "drink", "other"]
    assert [topics["of"].count(place) for place in range(6)] == [9, 5, 4, 4, 2, 0]
    minutes = of_map(http, "colours", column="minutes").json()
    assert minutes["labels"][0].startswith("5 to ")
    assert len(minutes["of"]) == 24
    assert of_map(http, "colours", column="no_such_column").status_code in (400, 404)


def test_what_chosen_points_have_in_common_is_told_beside_the_others(http: httpx.Client) -> None:
    charted(http)
    topics = of_map(http, "colours", column="topic").json()["of"]
    told = of_map(http, "common", places=[place for place, topic in enumerate(topics) if topic == 3]).text
    assert re.search(
        r"<th scope=\"row\">topic</th><td>soup</td><td class=\"n\">100 %</td><td class=\"n\">0 %</td>", told
    )
    assert re.search(r"<p>[^<]*\bsoup\b", told)


@pytest.mark.parametrize("places", [[], [99], ["x"], None, [-1]])
def test_points_that_there_are_not_have_nothing_in_common(http: httpx.Client, places: Any) -> None:
    charted(http)
    assert of_map(http, "common", places=places).status_code == 400


def test_a_points_row_is_text(http: httpx.Client) -> None:
    charted(http, "strange")
    rows = "".join(of_map(http, "row", "strange", place=place).text for place in (0, 1))
    assert "&lt;script&gt;" in rows
    assert "<script" not in rows


def test_of_more_rows_than_can_be_shown_a_sample_is(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgmeaning.console.mapping.MOST", 12)
    made = charted(http, anew=True)
    monkeypatch.undo()
    assert len(made["x"]) < 24
    assert made["total"] == 24
    charted(http, anew=True)


def test_a_map_that_cannot_be_made_says_why(http: httpx.Client) -> None:
    def is_refused() -> bool:
        answer = of_map(http, "points", "none")
        return answer.status_code == 404 and "none" in answer.text

    wait_until(is_refused)


def test_what_lies_apart_is_drawn_apart() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(0, 0.05, (60, 30)).astype(np.float32)
    vectors[30:, 0] += 1
    places = arranged(Components(vectors).of(vectors), "pca")
    left, right = sorted((places[:30, 0].mean(), places[30:, 0].mean()))
    assert right - left > 0.5


# ---------------------------------------------------------------- In a browser


@pytest.fixture(scope="module")
def visited(address: str) -> Iterator[Any]:
    """A browser's tab that has been let in; it fails the test that it is closed after if a script failed in it."""
    with console.browser() as browser:
        context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="en-US")
        context.set_default_timeout(20_000)
        tab = context.new_page()
        tab.goto(address)
        tab.errors, tab.asked = [], []
        tab.on("pageerror", lambda error: tab.errors.append(str(error)))
        tab.on("console", lambda said: tab.errors.append(said.text) if said.type == "error" else None)
        tab.on("request", lambda request: tab.asked.append(request.url))
        yield tab
        context.close()


@pytest.fixture
def tab(visited: Any, base: str) -> Iterator[Any]:
    """The tab, as it is when one comes to the page."""
    visited.emulate_media(color_scheme="light")
    visited.goto(f"{base}/?collection=recipes")
    visited.errors.clear()
    yield visited
    assert visited.errors == []


def ask(tab: Any, query: str) -> None:
    tab.get_by_label("Query").fill(query)
    tab.keyboard.press("Enter")
    told = tab.locator("#told")
    wait_until(lambda: (told.text_content() or "").startswith("Vectors: "))


def complaints(tab: Any) -> list[str]:
    """What axe finds wrong for people who cannot see, or use no mouse."""
    found = needs_package("axe_playwright_python.sync_playwright", "dev").Axe().run(tab).response["violations"]
    return [f"{one['id']}: {node['html']}" for one in found for node in one["nodes"]]


def test_four_kinds_of_search_stand_side_by_side_and_ranks_move(tab: Any) -> None:
    ask(tab, "a hot soup for cold days")
    assert [tab.locator(f"[data-kind={kind}] .hit").count() > 2 for kind in KINDS] == [True] * 4
    first = tab.locator("[data-kind=vectors] .hit").first.get_attribute("data-key")
    before = tab.locator("[data-kind=vectors] .hit").evaluate_all("hits => hits.map((hit) => hit.dataset.key)")
    for hit in tab.locator("[data-kind=reranked] .hit").all():
        key, rank = hit.get_attribute("data-key"), int(hit.get_attribute("data-rank"))
        said = hit.locator(".move .unseen").text_content()
        by = before.index(key) + 1 - rank if key in before else None
        assert said == (
            "not among the vectors' rows" if by is None else "same rank as by vectors" if by == 0
            else f"{'up' if by > 0 else 'down'} {abs(by)} from vectors"
        )  # fmt: skip
    tab.locator("[data-kind=vectors] .hit").first.hover()
    assert tab.locator(".lines path.together").first.get_attribute("data-key") == first
    console.picture(tab, "ui-playground")
    tab.emulate_media(color_scheme="dark")
    console.picture(tab, "ui-playground-dark")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_hinders_who_cannot_see(tab: Any, scheme: str) -> None:
    tab.emulate_media(color_scheme=scheme)
    ask(tab, "a hot soup for cold days")
    tab.locator("[data-kind=words] summary").click()
    assert complaints(tab) == []
    tab.locator("[data-kind=vectors] .open").first.click()
    tab.locator("#document-body .row").wait_for()
    assert complaints(tab) == []


def test_it_is_used_without_a_mouse(tab: Any) -> None:
    assert tab.evaluate("document.activeElement.id") == "query"
    ask(tab, "soup")
    tab.locator("[data-kind=vectors] .open").first.focus()
    tab.keyboard.press("Enter")
    tab.locator("#document-body .row").wait_for()
    assert tab.evaluate("document.querySelector('dialog').contains(document.activeElement)")
    tab.keyboard.press("Escape")
    assert tab.evaluate("document.activeElement.matches('[data-kind=vectors] .open')")


def test_a_rows_script_does_not_run(tab: Any, base: str) -> None:
    tab.goto(f"{base}/?collection=strange&query=evil")
    evil = tab.locator("[data-kind=words] .hit").first
    assert "<script>" in evil.locator(".text").text_content()
    evil.locator(".open").click()
    tab.locator("#document-body .row").wait_for()
    assert tab.title() == "Playground · pgmeaning"


def test_an_image_is_dropped_and_pictures_are_shown(tab: Any, base: str) -> None:
    tab.goto(f"{base}/?collection=photos")
    picture = {"name": "wall.png", "mimeType": "image/png", "buffer": encoded(plain_image())}
    tab.get_by_label("Image", exact=True).set_input_files(picture)
    shown = tab.locator("[data-kind=vectors] .thumbnail")
    shown.first.wait_for()
    wait_until(lambda: set(shown.evaluate_all("all => all.map((one) => one.naturalWidth)")) == {320})
    assert shown.count() == 3
    assert tab.locator("#preview").get_attribute("alt") == "The image to search for: wall.png"


def test_the_address_brings_back_what_was_searched(tab: Any) -> None:
    tab.get_by_label("Filter").fill("minutes < 30")
    ask(tab, "soup")
    tab.reload()
    assert tab.get_by_label("Filter").input_value() == "minutes < 30"
    tab.locator("[data-kind=vectors] .hit").first.wait_for()


def test_a_filter_of_an_address_is_not_run_until_somebody_does(tab: Any, base: str) -> None:
    tab.goto(f"{base}/?collection=recipes&query=soup&filter=minutes+<+31")
    tab.wait_for_load_state("networkidle")
    assert tab.locator("[data-kind=vectors] .hit").count() == 0
    ask(tab, "soup")
    assert tab.locator("[data-kind=vectors] .hit").count() > 0


def test_nothing_is_loaded_from_elsewhere(tab: Any, base: str) -> None:
    assert {urlsplit(url).netloc for url in tab.asked if not url.startswith("data:")} == {urlsplit(base).netloc}


def test_a_thumb_is_the_rows_in_every_column(tab: Any, judgements: Path) -> None:
    ask(tab, "breakfast with eggs")
    first = tab.locator("[data-kind=vectors] .hit").first
    key = first.get_attribute("data-key")
    first.get_by_role("button", name="Good answer").press("Enter")
    tab.get_by_text("measures by them").wait_for()
    pressed = tab.locator(".thumb[aria-pressed=true]").evaluate_all(
        "thumbs => thumbs.map((thumb) => thumb.closest('.hit').dataset.key)"
    )
    assert len(pressed) >= 2
    assert set(pressed) == {key}
    assert Judgements(judgements).of("recipes", "breakfast with eggs") == {same_key(json.loads(key)): 1}


def test_what_goes_on_is_shown_anew_without_losing_the_place(tab: Any, base: str) -> None:
    tab.set_viewport_size({"width": 1440, "height": 420})
    tab.goto(f"{base}/operations")
    tab.locator("#sidecars table").wait_for()
    region = tab.get_by_role("group", name="Sidecars")
    region.focus()
    tab.evaluate("window.scrollTo(0, 150)")
    shown = tab.locator("#at").text_content()
    wait_until(lambda: tab.locator("#at").text_content() != shown)
    assert tab.evaluate("document.activeElement.getAttribute('aria-label')") == "Sidecars"
    assert tab.evaluate("window.scrollY") == 150
    tab.set_viewport_size({"width": 1440, "height": 900})
    assert complaints(tab) == []
    console.picture(tab, "ui-operations")


def test_a_part_of_the_map_is_chosen_by_a_line_or_by_keyboard(tab: Any, base: str) -> None:
    tab.goto(f"{base}/map?collection=recipes&method=pca")
    tab.get_by_text("24 points", exact=True).wait_for()
    tab.get_by_label("Coloured by").select_option("topic")
    soup = tab.get_by_role("button", name="soup 4")
    soup.focus()
    tab.keyboard.press("Enter")
    tab.get_by_text("4 rows, beside the others").wait_for()
    assert "soup" in tab.locator("#common").text_content()
    assert complaints(tab) == []
    console.picture(tab, "ui-map")
    box = tab.locator("#points").bounding_box()
    corners = [(2, 2), (box["width"] - 2, 2), (box["width"] - 2, box["height"] - 2), (2, box["height"] - 2)]
    tab.mouse.move(box["x"] + 2, box["y"] + 2)
    tab.mouse.down()
    for x, y in corners:
        tab.mouse.move(box["x"] + x, box["y"] + y)
    tab.mouse.up()
    tab.get_by_text("24 rows, beside the others").wait_for()


def test_a_database_that_is_away_is_said_and_the_page_recovers(visited: Any, dsn: str, server_dsn: str) -> None:
    database = str(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"])
    name = sql.Identifier(database)
    with serving(dsn) as url, psycopg.connect(server_dsn, autocommit=True) as server:
        visited.goto(url)
        visited.goto(f"{url.partition('/?')[0]}/operations")
        visited.get_by_text("No collection yet").wait_for()
        server.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (database,))
        visited.get_by_text("The database does not answer since").wait_for()
        assert visited.get_by_text("No collection yet").is_visible()
        server.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
        visited.get_by_text("The database answers again").wait_for()
        assert visited.locator("#away").text_content() == ""
        visited.goto("about:blank")
