"""What a person thinks of results, kept in files that `pgmeaning evaluate` reads: one of JSON lines per collection."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pgmeaning import json_values
from pgmeaning.errors import ArgumentError

Record = dict[str, Any]


class Judgements:
    """Files in a folder, made at the first judgement. What others wrote into them stays, such as tags and grades.

    Each change replaces the file as a whole, so no reader sees half of it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._guard = threading.Lock()

    def file(self, collection: str) -> Path:
        """Where a collection's judgements are; no name leads out of the folder."""
        return self._folder / f"{quote(collection, safe=' @')}.jsonl"

    def of(self, collection: str, query: str) -> dict[str, int]:
        """Grades by key, as same_key() writes it: 0 is no answer."""
        return {
            same_key(key): grade
            for record in _read(self.file(collection)) if record["query"] == query
            for key, grade in _judged(record)
        }  # fmt: skip

    def count(self, collection: str) -> int:
        """How many rows were judged, for all queries."""
        return sum(len(_judged(record)) for record in _read(self.file(collection)))

    def judge(self, collection: str, query: str, key: Any, grade: int | None) -> None:
        """Keep a grade; None takes it back. Raises ArgumentError for a file that makes no sense, OSError."""
        with self._guard:
            file = self.file(collection)
            records = _read(file)
            mine = [record for record in records if record["query"] == query]
            for record in mine:
                _set(record, [(k, g) for k, g in _judged(record) if same_key(k) != same_key(key)])
            if grade is not None:
                if not mine:
                    # An id of its own: one that is left out is the line's number, which another line may have.
                    mine = [{"id": f"ui {hashlib.sha256(query.encode()).hexdigest()[:12]}", "query": query}]
                    records += mine
                _set(mine[0], [*_judged(mine[0]), (key, grade)])
            self._write(file, records)

    def _write(self, file: Path, records: list[Record]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(".new")
        fresh.write_text("".join(f"{json_values.dumps(record)}\n" for record in records), encoding="utf-8")
        os.replace(fresh, file)


def same_key(key: Any) -> str:
    """Equal for equal keys; a key of one column may be its value alone."""
    if isinstance(key, Mapping):
        key = next(iter(key.values())) if len(key) == 1 else dict(sorted(key.items()))
    return json_values.dumps(key)


def _read(file: Path) -> list[Record]:
    if not file.exists():
        return []
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise ArgumentError(f"{file} is not in UTF-8", hint="move it away, or convert it") from None
    return [_record(file, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _record(file: Path, number: int, line: str) -> Record:
    try:
        record: Any = json_values.loads(line)
        _judged(record)
    except (ValueError, TypeError, AttributeError, RecursionError):
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("query"), str):
        raise ArgumentError(
            f"{file}, line {number} is no judged query", hint='a line is {"query": "...", "relevant": [1]}'
        )
    return record


def _judged(record: Record) -> list[tuple[Any, int]]:
    """(key, grade) of a line, in its order."""
    keys, grades = _listed(record.get("relevant")), _listed(record.get("grades", record.get("grade")))
    return [(key, int(grade)) for key, grade in zip(keys, grades or [1] * len(keys), strict=False)]


def _set(record: Record, judged: list[tuple[Any, int]]) -> None:
    record.pop("grade", None)
    record["relevant"], record["grades"] = [key for key, _ in judged], [grade for _, grade in judged]


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list) else [value]
