"""The calls that only ask whether a model still is what it was: test models answer them and count none."""

from __future__ import annotations

from collections.abc import Iterable

from pgmeaning.models.probes import probes_for
from pgmeaning.types import Document, Model

TEXTS = frozenset(str(probe.input.get("text")) for probe in probes_for(Model("any", "embedder", "any")))


def are_probes(documents: Iterable[Document]) -> bool:
    """Whether these are a model's probes."""
    return all(document.text in TEXTS and not document.images for document in documents)
