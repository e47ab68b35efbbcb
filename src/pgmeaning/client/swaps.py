"""Changing a collection's model or definition while it serves: the client's part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from psycopg.types.json import Jsonb

from pgmeaning.client.arguments import texts_or_none, whole_or_none
from pgmeaning.client.statements import Statements


class Swaps:
    """What a client calls for a swap. Every method raises CollectionError and DatabaseError, as its function does."""

    _statements: Statements

    def explain_swap(
        self, collection: str, *, model: str | None = None, dimensions: int | None = None,
        vector_type: str | None = None, columns: Sequence[str] | None = None, template: str | None = None,
        image: str | None = None, video: str | None = None, chunking: Mapping[str, Any] | None = None,
        language: str | None = None, price: float | None = None, allow_deprecated: bool = False,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """What a swap would change and take: rows of `item`, `value` and `note`. Nothing is changed.

        `price` is that of a million tokens; the other arguments are those of `swap_start`.
        """
        arguments = _changes(
            collection, model, dimensions, vector_type, columns, template, image, video, chunking, language
        )
        return self._statements.dicts(
            "explain_swap", {**arguments, "price": price, "allow_deprecated": allow_deprecated}
        )

    def swap_start(
        self, collection: str, *, model: str | None = None, dimensions: int | None = None,
        vector_type: str | None = None, columns: Sequence[str] | None = None, template: str | None = None,
        image: str | None = None, video: str | None = None, chunking: Mapping[str, Any] | None = None,
        language: str | None = None, until: float | None = None, rows_per_second: float | None = None,
        share: float | None = None, max_tokens: int | None = None, price: float | None = None,
        require_evaluation: bool = False, allow_deprecated: bool = False,
    ) -> str:  # fmt: skip
        """Begin a swap; returns the new generation's name, such as 'docs@2', which can be searched by it already.

        What is not given stays; an empty text, and an empty mapping for `chunking`, take away what there was.
        `until` fills a part of the rows (0.5: half) in the order of their key, `rows_per_second`, `share` (of a
        sidecar's model) and `max_tokens` bound what is spent on those that are there; rows that change go first.
        `require_evaluation`: it cannot be activated until it was evaluated against the present generation.
        """
        arguments = _changes(
            collection, model, dimensions, vector_type, columns, template, image, video, chunking, language
        )
        pace = _pace(until, rows_per_second, share, max_tokens, price)
        more = {"require_evaluation": require_evaluation, "allow_deprecated": allow_deprecated}
        return str(self._statements.value("swap_start", {**arguments, **pace, **more}))

    def swap_adjust(
        self, collection: str, *, until: float | None = None, rows_per_second: float | None = None,
        share: float | None = None, max_tokens: int | None = None, price: float | None = None,
    ) -> None:  # fmt: skip
        """Set how fast and how far a swap fills; what is left out has no limit any more."""
        pace = _pace(until, rows_per_second, share, max_tokens, price)
        self._statements.value("swap_adjust", {"collection": collection, **pace})

    def swap_activate(self, collection: str, *, overrule: str | None = None, patience: float = 10) -> None:
        """Let the new generation serve, in one transaction.

        Rows that are owed are waited for, `patience` seconds. `overrule`: why it is to serve although it is worse, or
        its recall is short; it is recorded.
        """
        self._let_serve("swap_activate", collection, overrule, patience)

    def swap_rollback(self, collection: str, *, overrule: str | None = None, patience: float = 10) -> None:
        """Let the previous generation serve again."""
        self._let_serve("swap_rollback", collection, overrule, patience)

    def _let_serve(self, name: str, collection: str, overrule: str | None, patience: float) -> None:
        arguments = {"collection": collection, "overrule": overrule, "patience": timedelta(seconds=patience)}
        self._statements.value(name, arguments)

    def swap_finish(self, collection: str) -> None:
        """Drop the previous generation: there is no way back."""
        self._statements.value("swap_finish", {"collection": collection})

    def swap_cancel(self, collection: str) -> None:
        """Give a swap up that was not activated, and drop what it embedded."""
        self._statements.value("swap_cancel", {"collection": collection})

    def swaps(self, collection: str | None = None) -> list[dict[str, Any]]:
        """The rows of pgmeaning.swaps, of all collections or of one; those that are over, too."""
        return self._statements.dicts("swaps", {"collection": collection})


def _changes(
    collection: str, model: str | None, dimensions: int | None, vector_type: str | None, columns: Sequence[str] | None,
    template: str | None, image: str | None, video: str | None, chunking: Mapping[str, Any] | None,
    language: str | None,
) -> dict[str, Any]:  # fmt: skip
    return {
        "collection": collection, "model": model, "dimensions": whole_or_none("dimensions", dimensions),
        "vector_type": vector_type, "columns": texts_or_none("columns", columns), "template": template, "image": image,
        "video": video, "chunking": None if chunking is None else Jsonb(dict(chunking)), "language": language,
    }  # fmt: skip


def _pace(
    until: float | None, rows_per_second: float | None, share: float | None, max_tokens: int | None,
    price: float | None,
) -> dict[str, Any]:  # fmt: skip
    return {
        "until": until, "rows_per_second": rows_per_second, "share": share,
        "max_tokens": whole_or_none("max_tokens", max_tokens), "price": price,
    }  # fmt: skip
