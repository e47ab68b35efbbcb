"""Reranks rows from any source: a second model judges each (query, row) pair."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgmeaning.documents.template import SEPARATOR, several
from pgmeaning.errors import ArgumentError, InputError, ModelUnavailable
from pgmeaning.models.base import Input, Reranker, as_document, load_reranker
from pgmeaning.models.registry import builtin_model, current_release, fingerprint, located
from pgmeaning.models.vectors import Vectors
from pgmeaning.settings import Settings
from pgmeaning.threads import Shared
from pgmeaning.types import Document, Hit, Model

# A column or attribute, several of them, a position in a tuple, or a function of the row.
Field = str | int | Sequence[str | int] | Callable[[Any], Any]

SETTING = "PGMEANING_RERANKER"
SMALL_RERANKER = "all-MiniLM-L6-v2-late-interaction"


@dataclass(frozen=True, slots=True)
class Ranked:
    """A row that was judged: its position in the input, its score (0..1, higher is better), and the row itself."""

    index: int
    score: float
    row: Any


def rerank(
    query: Input, rows: Iterable[Any], *, text: Field | None = None, image: Field | None = None,
    model: Model | str | None = None, top_k: int | None = None, instruction: str | None = None,
    reranker: Reranker | None = None,
) -> list[Ranked]:  # fmt: skip
    """The rows, the best for the query first, ties in the order given; at most `top_k` of them.

    Rows may be search hits, mappings, tuples, SQLAlchemy rows and entities, dataclasses, other objects, or strings.
    They are returned unchanged: a Hit, too, keeps the score that its search gave it. `text` and `image` say where the
    content is: a column or attribute, a list of them (texts are joined by a blank line), a position in a tuple, or a
    function of the row. Without `text`, a string is its own text; a hit's text is its chunk, or else the text columns
    of its row. A missing value (None) is an empty document.

    `reranker` is one that is already loaded; otherwise `model` is loaded once and kept. The default is the reranker
    that PGMEANING_RERANKER names, or else the current release's; it never falls back silently to a smaller one.
    Raises ArgumentError for a single row instead of a list, InputError for a row without such a column,
    ModelNotFound, ModelUnavailable.
    """
    if isinstance(rows, str | bytes | Mapping):
        raise ArgumentError(f"rows is one {type(rows).__name__}", hint="give a list, even for one row")
    given = list(rows)
    if top_k is not None and top_k < 0:
        raise InputError(f"top_k is {top_k}", hint="leave it out to get every row")
    if not given:
        return []
    documents = [_document(place, row, text, image) for place, row in enumerate(given)]
    judge = reranker or loaded_reranker(model)
    scores = judge.score(as_document(query), documents, instruction).tolist()
    ranked = [Ranked(place, score, row) for place, (row, score) in enumerate(zip(given, scores, strict=True))]
    return sorted(ranked, key=lambda result: -result.score)[:top_k]


# ---------------------------------------------------------------- models, kept once loaded


def default_reranker() -> str:
    """The name of the model that `rerank` uses by default."""
    return os.environ.get(SETTING) or current_release().reranker


def loaded_reranker(model: Model | str | None = None, **options: Any) -> SharedReranker:
    """The reranker, loaded on first use and kept for the process; any thread may use it."""
    named = model if isinstance(model, Model) else builtin_model(model or default_reranker())
    wanted = located(named, Settings().location)
    # The fingerprint leaves out the options for talking to an endpoint, such as its URL.
    said = repr(sorted({**wanted.options, **options}.items()))
    key = (wanted.name, wanted.backend, fingerprint(wanted), said)
    with _guard:
        shared = _kept.setdefault(key, SharedReranker(wanted, options))
    shared.load()
    return shared


class SharedReranker:
    """A reranker that threads share: it is loaded once, and serves one of them at a time."""

    def __init__(self, model: Model, options: Mapping[str, Any]) -> None:
        self._shared = Shared(lambda: _load(model, options))

    def load(self) -> None:
        """Load it if it is not loaded. Raises ModelUnavailable, and suggests the small reranker; may be tried again."""
        with self._shared.use():
            pass

    def score(self, query: Document, documents: Sequence[Document], instruction: str | None = None) -> Vectors:
        """float32 [n], 0..1, higher is better, in the order given."""
        with self._shared.use() as judge:
            return judge.score(query, documents, instruction)


_kept: dict[tuple[str, ...], SharedReranker] = {}
_guard = threading.Lock()


def _load(model: Model, options: Mapping[str, Any]) -> Reranker:
    try:
        return load_reranker(model, **options)
    except ModelUnavailable as error:
        if model.name == SMALL_RERANKER:
            raise
        small = f"model={SMALL_RERANKER!r} or {SETTING}={SMALL_RERANKER} selects the small reranker, which needs no GPU"
        message = Exception.__str__(error)
        raise ModelUnavailable(message, hint=f"{error.hint}; {small}" if error.hint else small) from error


# ---------------------------------------------------------------- from a row to a document


def _document(place: int, row: Any, text: Field | None, image: Field | None) -> Document:
    if isinstance(row, Document) and text is None and image is None:
        return row
    written = _own_text(place, row, image is not None) if text is None else _joined(_values(place, row, text))
    images: list[Any] = []
    for value in _values(place, row, image) if image is not None else ():
        images.extend(several(value))
    return Document(text=written, images=tuple(images))


def _own_text(place: int, row: Any, has_image: bool) -> str:
    match row:
        case str():
            return row
        case Hit():
            return row.chunk_text or _joined([value for value in row.row.values() if isinstance(value, str)])
        case None:
            return ""
    if has_image:
        return ""
    raise InputError(
        f"row {place} is a {type(row).__name__}: which text is meant?", hint=f"text=..., of: {_there(row)}"
    )


def _joined(values: Iterable[Any]) -> str:
    return SEPARATOR.join(str(value) for value in values if value is not None)


def _values(place: int, row: Any, field: Field) -> list[Any]:
    if isinstance(field, str | int):
        return [_value(place, row, field)]
    if callable(field):
        return [field(row)]
    return [_value(place, row, name) for name in field]


def _value(place: int, row: Any, name: str | int) -> Any:
    try:
        return row[name] if isinstance(name, int) and not isinstance(row, Mapping) else _columns(row, name)[name]
    except (LookupError, TypeError):
        raise InputError(f"row {place} has no column {name!r}", hint=f"it has: {_there(row)}") from None


def _columns(row: Any, name: str | int) -> Any:
    """An object to index by the name: the row, its mapping, or (for an attribute) a mapping made for it."""
    if isinstance(row, Hit):
        return {"chunk_text": row.chunk_text, **row.key, **row.row}
    # For a SQLAlchemy row, the mapping comes before attributes: tuple's own method hides a column named "count".
    columns = getattr(row, "_mapping", row)
    if isinstance(columns, Mapping):
        return columns if name in columns else _of_entities(columns, name)
    if hasattr(row, "keys"):
        return row
    return {name: getattr(row, str(name))} if hasattr(row, str(name)) else {}


def _of_entities(columns: Mapping[Any, Any], name: str | int) -> dict[str | int, Any]:
    """The attribute of the first entity in the row that has it, as with select(Document, distance)."""
    entities = [value for value in columns.values() if hasattr(type(value), "__mapper__") and hasattr(value, str(name))]
    return {name: getattr(entities[0], str(name))} if entities else {}


def _there(row: Any) -> str:
    """The columns of a row, for an error's hint."""
    if isinstance(row, Hit):
        names: Iterable[Any] = row.row
    elif hasattr(row, "_fields"):
        names = row._fields
    elif hasattr(row, "keys"):
        names = row.keys()
    elif dataclasses.is_dataclass(row):
        names = [field.name for field in dataclasses.fields(row)]
    elif isinstance(row, Sequence) and not isinstance(row, str):
        names = range(len(row))
    else:
        names = [name for name in getattr(row, "__dict__", ()) if not name.startswith("_")]
    return ", ".join(map(str, names)) or "nothing"
