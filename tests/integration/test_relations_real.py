"""Relations of real texts under a real model: Python's docstrings, by MiniLM."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import pgmeaning
from pgmeaning import load_embedder
from pgmeaning.demo.docstrings import docstrings
from tests.integration.docs import cache
from tests.integration.relations import filled, nearest
from tests.types import Connection

MODEL = "all-MiniLM-L6-v2"
LABELS = {
    "math": "mathematics of numbers",
    "inspect": "inspecting functions, classes and source code",
    "tkinter": "a graphical user interface with widgets and windows",
}

pytestmark = [
    pytest.mark.local_model,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the standard library's own modules
]


def test_docstrings_match_cluster_and_are_classified(db: Connection, dsn: str) -> None:
    found = [row for row in docstrings() if row.module in LABELS]
    texts = [f"{row.name}: {row.doc}" for row in found]
    vectors = np.asarray(load_embedder(MODEL).embed_documents([{"text": text} for text in texts]), np.float32)
    filled(db, "docs", vectors, texts, model=MODEL)
    with pgmeaning.connect(dsn) as client:
        matches: dict[int, list[int]] = {}
        for match in client.matches("docs", "docs", 3, mode="signature"):
            matches.setdefault(match.key["id"], []).append(match.other_key["id"])
        exact = nearest(vectors, vectors, 3, itself=True)
        hits = sum(len(set(matches[place]) & set(ids)) for place, ids in enumerate(exact, start=1))
        assert hits / (3 * len(texts)) > 0.98
        for label in LABELS.values():
            cache(db, label, MODEL)
        classes = list(client.classify("docs", list(LABELS.values())))
        right = sum(LABELS[found[label.key["id"] - 1].module] == label.label for label in classes)
        assert right / len(classes) > 0.8
        clusters = client.clusters("docs", 3)
    modules = [Counter(found[key["id"] - 1].module for key in cluster.keys).most_common(1)[0] for cluster in clusters]
    assert {name for name, _ in modules} == set(LABELS)
    assert sum(count for _, count in modules) / len(texts) > 0.8
    assert all(len(cluster.words) == 10 for cluster in clusters)
