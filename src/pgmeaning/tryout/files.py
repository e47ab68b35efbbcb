"""Rows of a CSV file, of JSON lines or of a Parquet file, one after the other: a file may be larger than the memory."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any

from pgmeaning.errors import InputError

SAMPLE = 1 << 16
LONGEST_NAME = 63  # bytes, of a name in PostgreSQL
MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
DELIMITERS = ",;\t|"
SUFFIXES = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet",
}  # fmt: skip


@dataclass
class Rows:
    """A file's columns, and its rows as often as they are asked for. `notes`: what was odd about it."""

    columns: list[str]
    path: Path
    kind: str
    encoding: str = "utf-8"
    dialect: Any = None
    notes: list[str] = field(default_factory=list)
    _sources: list[str] = field(default_factory=list)  # the columns' names in the file

    def __iter__(self) -> Iterator[list[Any]]:
        return {"csv": self._csv, "jsonl": self._jsonl, "parquet": self._parquet}[self.kind]()

    def _csv(self) -> Iterator[list[Any]]:
        width = len(self.columns)
        with self.path.open(encoding=self.encoding, errors="replace", newline="") as opened:
            lines = csv.reader((line.replace("\0", "") for line in opened), self.dialect)
            next(lines, None)
            for row in lines:
                if len(row) > width:  # most often a text whose commas nobody quoted
                    row[width - 1 :] = [self.dialect.delimiter.join(row[width - 1 :])]
                if row:
                    yield [value if value != "" else None for value in row] + [None] * (width - len(row))

    def _jsonl(self) -> Iterator[list[Any]]:
        for document in _documents(self.path, self.encoding):
            yield [document.get(name) for name in self._sources]

    def _parquet(self) -> Iterator[list[Any]]:
        for batch in _parquet(self.path).iter_batches(batch_size=1000):
            yield from map(list, zip(*(column.to_pylist() for column in batch.columns), strict=True))


def opened(path: Path) -> Rows:
    """The file's rows. Raises InputError for one that is empty or of no known kind, or that has no columns."""
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{path.name} is of no known kind", hint=f"known are {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    if path.stat().st_size == 0:
        raise InputError(f"{path.name} is empty")
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    found = {"csv": _opened_csv, "jsonl": _opened_jsonl, "parquet": _opened_parquet}[kind](path)
    found._sources = found.columns
    found.columns = names(found.columns)
    if not found.columns:
        raise InputError(f"{path.name} has no columns")
    return found


def _opened_csv(path: Path) -> Rows:
    encoding = _encoding(path)
    with path.open(encoding=encoding, errors="replace", newline="") as stream:
        sample = stream.read(SAMPLE)
    dialect = _dialect(sample)
    header = next(csv.reader(sample.splitlines(keepends=True), dialect), [])
    return Rows(header, path, "csv", encoding, dialect, _said(encoding))


def _opened_jsonl(path: Path) -> Rows:
    encoding = _encoding(path)
    seen: dict[str, None] = {}
    for document in _documents(path, encoding):
        seen.update(dict.fromkeys(document))
    return Rows(list(seen), path, "jsonl", encoding, None, _said(encoding))


def _opened_parquet(path: Path) -> Rows:
    return Rows(list(_parquet(path).schema_arrow.names), path, "parquet")


def _parquet(path: Path) -> Any:
    try:
        return import_module("pyarrow.parquet").ParquetFile(path)
    except ModuleNotFoundError as error:
        raise InputError("a Parquet file needs the package pyarrow", hint="pip install 'pgmeaning[parquet]'") from error
    except (ValueError, OSError) as error:
        raise InputError(f"{path.name} is no Parquet file: {error}") from error


def _documents(path: Path, encoding: str) -> Iterator[dict[str, Any]]:
    with path.open(encoding=encoding, errors="replace") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                document = json.loads(line, parse_float=Decimal)
            except ValueError as error:
                raise InputError(f"{path.name}, line {number} is not JSON: {error}") from error
            if not isinstance(document, dict):
                raise InputError(f"{path.name}, line {number} is no object", hint='each line is one {"...": ...}')
            yield document


def _encoding(path: Path) -> str:
    """By its mark; else UTF-8 if all of it is; else what Windows and older programs wrote."""
    with path.open("rb") as stream:
        begin = stream.read(4)
    for mark, name in MARKS:
        if begin.startswith(mark):
            return name
    try:
        with path.open(encoding="utf-8") as text:
            while text.read(1 << 20):
                pass
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def _said(encoding: str) -> list[str]:
    return [f"read as {encoding}: it is not UTF-8"] if encoding in ("cp1252", "utf-16") else []


def _dialect(sample: str) -> Any:
    """What separates fields: the sign that the first line has most of; commas in a file of one column."""
    first = sample.split("\n", 1)[0]

    class Found(csv.excel):
        delimiter = max(DELIMITERS, key=first.count) if any(sign in first for sign in DELIMITERS) else ","

    return Found


def names(given: Sequence[Any]) -> list[str]:
    """Names that PostgreSQL takes as they are: none empty, none twice, none too long."""
    found: list[str] = []
    for place, each in enumerate(given, start=1):
        wanted = _short(" ".join(str(each or "").replace("\0", "").split()) or f"column_{place}")
        name, number = wanted, 2
        while name in found:
            name, number = f"{_short(wanted, 58)}_{number}", number + 1
        found.append(name)
    return found


def _short(name: str, most: int = LONGEST_NAME) -> str:
    return name.encode()[:most].decode(errors="ignore")
