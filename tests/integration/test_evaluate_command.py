"""The command evaluate: its documents, its page and its exit statuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.docs import Docs
from tests.integration.test_cli import output, run
from tests.needs import needs_package
from tests.types import Connection, Drain

DOCS = Docs(
    "id int PRIMARY KEY, title text, body text",
    "SELECT i, 'title ' || i, 'body ' || i FROM generate_series(1, 30) AS i",
    "'{title}', language => 'simple'",
)


@pytest.fixture
def queries(docs: Connection, drain: Drain, tmp_path: Path) -> str:
    """A file of judged queries; `docs` embeds titles, `docs2` what the queries say."""
    needs_package("ir_measures", "evaluate")
    docs.execute("SELECT pgmeaning.attach('docs', '{body}', collection => 'docs2', language => 'simple')")
    assert drain() == 0
    path = tmp_path / "queries.jsonl"
    path.write_text("\n".join(
        json.dumps({"query": f"body {key}", "relevant": [key], "language": "de" if key % 2 else "en"})
        for key in range(1, 13)
    ))  # fmt: skip
    return str(path)


def arguments(queries: str, dsn: str, *more: str) -> list[str]:
    return ["evaluate", "docs", "--queries", queries, "--local", "--dsn", dsn, *more]


def document(*arguments: str) -> Any:
    return json.loads(output(*arguments, "--json"))


def test_a_document_has_measures_differences_and_what_changed(queries: str, dsn: str) -> None:
    found = document(*arguments(queries, dsn, "--generation", "docs2", "--changed", "2"))
    assert [one["way"]["collection"] for one in found["measured"]] == ["docs", "docs2"]
    assert found["measured"][1]["measures"]["MRR"] == {"n": 12, "mean": 1.0, "low": 1.0, "high": 1.0}
    assert {one["tag"] for one in found["differences"]} == {None, "de", "en"}
    assert len(found["changed"]) == 2
    assert found["recorded"] == 11
    assert found["below"] == []


def test_people_see_tables_and_notes_go_to_stderr(queries: str, dsn: str) -> None:
    done = run(*arguments(queries, dsn, "--generation", "docs2", "--way", "vectors", "--way", "words", "--no-record"))
    assert done.returncode == 0
    for text in ("12 queries, 12 judged", "docs2: words", "1.000 [1.000, 1.000]", "queries that changed most"):
        assert text in done.stdout
    assert "recorded" not in done.stdout
    assert done.stderr == ""


def test_the_report_is_a_page_with_the_queries_side_by_side(queries: str, dsn: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    output(*arguments(queries, dsn, "--generation", "docs2", "--report", str(page)))
    text = page.read_text()
    assert text.startswith("<!doctype html>")
    assert text.count("<details") == 10
    assert "docs2: vectors" in text


def test_tuning_prints_the_statement_to_use(queries: str, dsn: str) -> None:
    printed = output(*arguments(queries, dsn, "--way", "hybrid", "--tune"))
    assert "SELECT * FROM pgmeaning.search('docs', 'your query', mode => 'hybrid'" in printed
    assert "client.search('docs', \"your query\", mode='hybrid'" in printed


def test_without_judgements_it_prints_how_alike_the_lists_are(queries: str, dsn: str, tmp_path: Path) -> None:
    path = tmp_path / "unjudged.csv"
    path.write_text("query\nbody 1\nbody 2\n")
    done = run(*arguments(str(path), dsn, "--generation", "docs2"))
    assert done.returncode == 0
    assert "how alike the lists are" in done.stdout
    assert done.stderr.startswith("note: no query is judged")


@pytest.mark.parametrize(
    ("more", "status", "says"),
    [
        (["--generation", "docs2", "--fail-below", "nDCG@10=0.9"], 0, ""),
        (["--fail-below", "nDCG@10=0.9"], 1, "docs: vectors: nDCG@10 is "),
        (["--fail-below", "magic=0.9"], 2, "'magic' is none of nDCG@10, recall@10, MRR"),
        (["--fail-below", "MRR"], 2, "'MRR' is not like"),
        (["--way", "magic"], 2, "'magic' is none of vectors"),
        (["--weights", "1"], 2, "'1' is not like 2,1"),
        (["--report", "/nope/report.html"], 2, "is no file in a folder that is there"),
        (["--generation", "docs@2"], 1, "error: there is no collection 'docs@2'"),
        (["--filter", "nope = 1"], 1, "error: the filter is not a condition"),
    ],
)
def test_the_exit_status_says_what_became_of_it(
    queries: str, dsn: str, more: list[str], status: int, says: str
) -> None:
    done = run(*arguments(queries, dsn, *more), COLUMNS="200")
    assert (done.returncode, says in done.stderr) == (status, True), done.stderr


def test_wrong_files_fail_with_one_line(queries: str, dsn: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.jsonl"
    path.write_text('{"query": "x", "relevant": [1]}\n{"query"')
    for file, says in ((str(path), "error: wrong.jsonl, line 2: not JSON"), ("/nope.jsonl", "error: No such file")):
        done = run(*arguments(file, dsn))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(says)
        assert done.stderr.count("\n") == 1


def test_what_is_below_is_told_in_the_document_too(queries: str, dsn: str) -> None:
    done = run(*arguments(queries, dsn, "--fail-below", "MRR=0.9", "--json"))
    assert done.returncode == 1
    assert json.loads(done.stdout)["below"][0].startswith("docs: vectors: MRR is")


def test_judgements_may_be_trecs_or_beirs(queries: str, dsn: str, tmp_path: Path) -> None:
    (tmp_path / "topics.tsv").write_text("q1\tbody 1\nq2\tbody 2\n")
    (tmp_path / "qrels.txt").write_text("q1 0 1 1\nq2 0 2 1\n")
    trec = document(
        *arguments(str(tmp_path / "topics.tsv"), dsn, "--qrels", str(tmp_path / "qrels.txt"), "--generation", "docs2")
    )
    (tmp_path / "beir" / "qrels").mkdir(parents=True)
    (tmp_path / "beir" / "queries.jsonl").write_text(
        '{"_id": "q1", "text": "body 1"}\n{"_id": "q2", "text": "body 2"}\n'
    )
    (tmp_path / "beir" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\t1\t1\nq2\t2\t1\n")
    beir = document(*arguments(str(tmp_path / "beir"), dsn, "--generation", "docs2"))
    for found in (trec, beir):
        assert found["measured"][1]["measures"]["MRR"]["mean"] == 1
