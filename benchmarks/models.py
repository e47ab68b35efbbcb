"""How much does the database slow the model down, and how much do batches by token budget save?

    python -m benchmarks.models [--rows 5000] [--rounds 3]

First, our backend embeds docstrings with all-MiniLM-L6-v2 in batches by token budget, and the sidecar drains them,
compared with `encode` of sentence-transformers (batches of 32, by length) of the same texts. Then a tiny Qwen3-VL with
random weights embeds texts of mixed length in batches by token budget, compared with batches of 32 in the order given.
They are run in turn, round by round; the figures are medians.
"""

from __future__ import annotations

import argparse
import ast
import logging
import random
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import structlog

import pgmeaning
from benchmarks import bench
from pgmeaning.models.base import LoadedEmbedder, load_embedder
from pgmeaning.models.batches import batches, token_lengths
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.types import Document

MODEL = "all-MiniLM-L6-v2"
FIXED = 32


def main() -> None:
    """Print both tables."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=5000)
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    minilm(docstrings(options.rows), options.rounds)
    tiny_qwen(mixed_lengths(1000), options.rounds)


def minilm(texts: Sequence[str], rounds: int) -> None:
    """The sidecar compared with `encode`."""
    from sentence_transformers import SentenceTransformer

    from pgmeaning.models.places import find_weights
    from pgmeaning.models.registry import builtin_model

    peer = SentenceTransformer(str(find_weights(builtin_model(MODEL))), device="cpu")
    embedder = load_embedder(MODEL)
    with bench.database() as dsn, pgmeaning.connect(dsn) as client:
        client.connection.execute("CREATE TABLE docs (id int PRIMARY KEY, doc text)")
        with client.connection.cursor() as cursor:
            cursor.executemany("INSERT INTO docs VALUES (%s, %s)", list(enumerate(texts)))
        seconds = in_turn(
            rounds,
            lambda: peer.encode(list(texts), batch_size=FIXED, normalize_embeddings=True),
            lambda: embedder.embed_documents(list(texts)),
            lambda: drain(client, dsn, embedder),
        )
    names = ("encode, batches of 32", "our embedder alone", "sidecar, into the database")
    report(f"{len(texts):,} docstrings, {MODEL}", names, seconds, texts)


def drain(client: pgmeaning.Client, dsn: str, embedder: LoadedEmbedder) -> None:
    """Attach, embed every row with the model that is already loaded, and detach."""
    client.attach("docs", columns=["doc"], model=MODEL)
    assert Sidecar(dsn, load=lambda model: embedder).run(drain=True) == 0
    assert client.status()[0]["owed"] == 0
    client.detach("docs")


def tiny_qwen(texts: Sequence[str], rounds: int) -> None:
    """Batches by token budget compared with batches of a fixed number of rows."""
    from tests.conformance.tiny_qwen import build_embedder

    with tempfile.TemporaryDirectory() as folder:
        where = str(build_embedder(Path(folder)))
        load = partial(load_embedder, "Qwen3-VL-Embedding-2B", dimensions=64, location=where)
        # Inputs given together go through the model together, instead of being split up inside.
        fixed, embedder = load(batch_tokens=sys.maxsize), load()
        documents = [Document(text) for text in texts]
        seconds = in_turn(
            rounds,
            lambda: [fixed.embed_documents(documents[at : at + FIXED]) for at in range(0, len(documents), FIXED)],
            lambda: by_budget(embedder, documents),
        )
    report(
        f"{len(texts):,} texts of mixed length, a tiny Qwen3-VL", ("batches of 32", "by token budget"), seconds, texts
    )


def by_budget(embedder: LoadedEmbedder, documents: Sequence[Document]) -> None:
    """Batches by token budget, as in the sidecar."""
    settings = Settings()
    lengths = token_lengths(embedder, documents)
    for batch in batches(lengths, settings.batch_tokens or 1024, settings.batch_rows or 128):
        embedder.embed_documents([documents[place] for place in batch.places])


def in_turn(rounds: int, *works: Callable[[], object]) -> list[float]:
    """Median seconds of each, run in turn; a first round warms up and does not count."""
    taken: list[list[float]] = [[] for _ in works]
    for number in range(rounds + 1):
        for place, work in enumerate(works):
            started = time.perf_counter()
            work()
            if number:
                taken[place].append(time.perf_counter() - started)
    return [statistics.median(seconds) for seconds in taken]


def report(title: str, names: Sequence[str], seconds: Sequence[float], texts: Sequence[str]) -> None:
    """Print rows per second, and the ratio to the first."""
    rows = [[name, len(texts) / took, seconds[0] / took] for name, took in zip(names, seconds, strict=True)]
    bench.print_table(title, ["", "rows/s", "ratio"], rows)


def docstrings(count: int) -> list[str]:
    """Distinct docstrings of the standard library: modules, classes, functions and methods."""
    found: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" in path.parts or "test" in path.parts:
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found.setdefault(ast.get_docstring(node) or "")
    return [text for text in found if text][:count]


def mixed_lengths(count: int) -> list[str]:
    """Texts from a few words to a few hundred: many short ones, few long ones, as titles and bodies are."""
    generator = random.Random(0)
    return [" ".join(["word"] * int(min(400, 4 + generator.lognormvariate(3, 1.2)))) for _ in range(count)]


if __name__ == "__main__":
    main()
