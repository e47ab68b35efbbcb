"""Reads judged queries: JSON lines, CSV, a TREC pair of topics and qrels, or a BEIR folder.

What cannot be meant is an error that names the line; what can, but is probably not, is counted and told.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgmeaning import json_values
from pgmeaning.errors import ArgumentError

FIELDS = {"id", "query", "relevant", "grades", "grade", "language", "tags"}
TOPIC = re.compile(r"<top>(.*?)</top>", re.DOTALL | re.IGNORECASE)
NUMBER = re.compile(r"<num>\s*(?:Number:)?\s*([^\s<]+)", re.IGNORECASE)
TITLE = re.compile(r"<title>\s*(?:Topic:)?\s*([^<]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Query:
    """A query, the keys of the rows that answer it, each with its grade (from 1), and the groups that it belongs to."""

    id: str
    text: str
    relevant: tuple[tuple[Any, int], ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Queries:
    """What was read, and what should be known about it."""

    name: str
    queries: tuple[Query, ...]
    warnings: tuple[str, ...] = ()


def read_queries(path: str | Path, qrels: str | Path | None = None) -> Queries:
    """The queries of a file of JSON lines or CSV, of topics with their `qrels`, or of a BEIR folder.

    In JSON lines a query is {"query": "...", "relevant": [keys], "grades": [numbers], "id": "...", "language": "de",
    "tags": [...]}; all but "query" may be left out. CSV has columns of these names, and a row for each judgement.
    Raises ArgumentError with the line that is wrong, OSError for a file that cannot be read.
    """
    place = Path(path)
    reading = _Reading(place.name)
    if place.is_dir():
        _read_beir(reading, place, qrels)
    elif qrels is not None:
        _read_topics(reading, place)
        _read_qrels(reading, Path(qrels))
    elif place.suffix.lower() == ".csv":
        _read_csv(reading, place)
    else:
        for where, line in _lines(place):
            _read_record(reading, where, _parsed(where, line))
    return reading.finished()


def to_queries(records: Iterable[Mapping[str, Any]]) -> Queries:
    """The same from mappings, each as a line of JSON would be."""
    reading = _Reading("queries")
    for number, record in enumerate(records, 1):
        _read_record(reading, f"query {number}", record)
    return reading.finished()


class _Reading:
    """What has been read so far, by the ids of queries."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.texts: dict[str, str] = {}
        self.tags: dict[str, tuple[str, ...]] = {}
        self.judged: dict[str, dict[str, tuple[Any, int]]] = {}
        self.told: Counter[str] = Counter()

    def add(self, where: str, id: str, text: Any, tags: tuple[str, ...] = ()) -> None:
        if not isinstance(text, str) or not text.strip():
            raise ArgumentError(f"{where}: there is no query", hint='its text is "query"')
        if id in self.texts:
            raise ArgumentError(f"{where}: there are two queries with the id {id!r}", hint="an id stands once")
        self.texts[id], self.tags[id] = text, tags

    def judge(self, where: str, id: str, key: Any, grade: int) -> None:
        if key is None or key == "" or isinstance(key, list):
            hint = 'a key is a value, or for a key of several columns an object: {"tenant": 1, "id": 5}'
            raise ArgumentError(f"{where}: {key!r} is no key", hint=hint)
        rows, name = self.judged.setdefault(id, {}), _canonical(key)
        if name in rows and rows[name][1] != grade:
            raise ArgumentError(
                f"{where}: {key!r} has two grades, {rows[name][1]} and {grade}", hint="judge a row once"
            )
        self.told["judgements were made twice"] += name in rows
        rows[name] = (key, grade)

    def finished(self) -> Queries:
        if not self.texts:
            raise ArgumentError(f"{self.name} has no queries", hint='a line is {"query": "...", "relevant": [1, 2]}')
        strange = self.judged.keys() - self.texts.keys()
        self.told["judged queries have no text, and are left out"] += len(strange)
        found = tuple(Query(id, text, self._relevant(id), self.tags[id]) for id, text in self.texts.items())
        warnings = tuple(f"{count:,} {what}" for what, count in self.told.items() if count)
        return Queries(self.name, found, warnings)

    def _relevant(self, id: str) -> tuple[tuple[Any, int], ...]:
        return tuple((key, grade) for key, grade in self.judged.get(id, {}).values() if grade > 0)


def _canonical(key: Any) -> str:
    """Equal for equal keys; 5 and "5" may be one, which the database knows."""
    return json_values.dumps(dict(sorted(key.items())) if isinstance(key, Mapping) else key)


# ---------------------------------------------------------------- JSON lines


def _read_record(reading: _Reading, where: str, record: Any) -> None:
    if not isinstance(record, Mapping):
        raise ArgumentError(f"{where}: not an object", hint='write {"query": "...", "relevant": [1, 2]}')
    reading.told.update(f'queries have a field "{name}", which means nothing here' for name in record.keys() - FIELDS)
    given = record.get("id")
    id = f"{len(reading.texts) + 1}" if given is None else str(given)
    reading.add(where, id, record.get("query"), _tags(record))
    keys = _listed(record.get("relevant"))
    for key, grade in zip(keys, _grades(where, record, len(keys)), strict=True):
        reading.judge(where, id, key, grade)


def _grades(where: str, record: Mapping[str, Any], count: int) -> list[int]:
    given = record.get("grades", record.get("grade"))
    if given is None:
        return [1] * count
    grades = [_grade(where, grade) for grade in _listed(given)]
    if len(grades) != count:
        raise ArgumentError(f"{where}: {len(grades)} grades for {count} keys", hint="give a grade for each key")
    return grades


def _grade(where: str, given: Any) -> int:
    try:
        number = float(given)
        if isinstance(given, bool) or number != int(number):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        hint = "a grade is a whole number; 0: it is no answer"
        raise ArgumentError(f"{where}: {given!r} is no grade", hint=hint) from None
    return int(number)


def _tags(record: Mapping[str, Any]) -> tuple[str, ...]:
    tags = [*_listed(record.get("language")), *_listed(record.get("tags"))]
    return tuple(dict.fromkeys(str(tag) for tag in tags if tag not in (None, "")))


def _listed(value: Any) -> list[Any]:
    """A list as it is, nothing as an empty one, and a single value as a list of it."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


# ---------------------------------------------------------------- CSV


def _read_csv(reading: _Reading, path: Path) -> None:
    """A row for each judgement, or for a query with a JSON list of keys; rows of a query need not be neighbours."""
    rows = csv.DictReader(io.StringIO(_text(path), newline=""))
    if "query" not in (rows.fieldnames or ()):
        raise ArgumentError(f"{path.name} has no column query", hint="its first line names columns: query,relevant")
    strange = [name for name in rows.fieldnames or () if name not in FIELDS]
    reading.told.update(f'column "{name}" means nothing here' for name in strange)
    for row in rows:
        _read_row(reading, f"{path.name}, line {rows.line_num}", row)


def _read_row(reading: _Reading, where: str, row: dict[str, Any]) -> None:
    if None in row or None in row.values():
        raise ArgumentError(f"{where}: it has not as many values as there are columns", hint="quote what has a comma")
    record = {name: value for name, value in row.items() if value != "" and name in FIELDS}
    record["tags"] = [tag.strip() for tag in record.get("tags", "").split(";")]
    text, id = record.get("query"), record.get("id", record.get("query", ""))
    if reading.texts.get(id, text) != text:
        raise ArgumentError(f"{where}: there are two queries with the id {id!r}", hint="an id stands for one text")
    if id not in reading.texts:
        reading.add(where, id, text, _tags(record))
    keys = _listed(_cell(where, record.get("relevant")))
    grades = {"grades": _cell(where, record.get("grades", record.get("grade")))}
    for key, grade in zip(keys, _grades(where, grades, len(keys)), strict=True):
        reading.judge(where, id, key, grade)


def _cell(where: str, text: str | None) -> Any:
    """A value as text, which the database reads as its column's type; objects and lists are JSON."""
    return _parsed(where, text) if text and text.strip()[0] in "[{" else text


# ---------------------------------------------------------------- TREC and BEIR


def _read_beir(reading: _Reading, folder: Path, qrels: str | Path | None) -> None:
    """Queries of all splits, and the judgements of the test's, or of the file that is named."""
    judged = folder / "qrels" / "test.tsv" if qrels is None else Path(qrels)
    for file in (folder / "queries.jsonl", judged):
        if not file.is_file():
            hint = "a BEIR folder has queries.jsonl and qrels/test.tsv; name other judgements with --qrels"
            raise ArgumentError(f"{file} is not there", hint=hint)
    _read_topics(reading, folder / "queries.jsonl")
    _read_qrels(reading, judged)
    others = reading.texts.keys() - reading.judged.keys()
    reading.told[f"queries are not in {judged.name}, and are left out"] += len(others)
    for id in others:
        del reading.texts[id]


def _read_topics(reading: _Reading, path: Path) -> None:
    """Ids and texts: JSON lines, TREC's <top> blocks, or lines with a tab between id and text."""
    if path.suffix.lower() in (".jsonl", ".json", ".ndjson"):
        for where, line in _lines(path):
            record = _parsed(where, line)
            if not isinstance(record, Mapping):
                raise ArgumentError(f"{where}: not an object", hint='write {"_id": "1", "text": "..."}')
            reading.add(where, _id(where, record), record.get("text", record.get("query")), _tags(record))
        return
    blocks = TOPIC.findall(_text(path))
    for number, block in enumerate(blocks, 1):
        found = [pattern.search(block) for pattern in (NUMBER, TITLE)]
        id, title = (match[1].strip() if match else "" for match in found)
        reading.add(f"{path.name}, topic {number}", id, title)
    for where, line in () if blocks else _lines(path):
        id, tab, text = line.partition("\t")
        if not tab:
            raise ArgumentError(f"{where}: no tab between id and text", hint="or write TREC's <top> blocks")
        reading.add(where, id.strip(), text.strip())


def _id(where: str, record: Mapping[str, Any]) -> str:
    id = record.get("_id", record.get("id"))
    if id is None:
        raise ArgumentError(f"{where}: the query has no id", hint='judgements find it by its "_id"')
    return str(id)


def _read_qrels(reading: _Reading, path: Path) -> None:
    """`query iteration key grade`, or `query key grade` with tabs and perhaps a line of names."""
    found = 0
    for where, line in _lines(path):
        values = [value.strip() for value in line.split("\t")] if "\t" in line else line.split()
        if len(values) not in (3, 4):
            raise ArgumentError(f"{where}: {len(values)} values", hint="write: query 0 key grade")
        if found == 0 and values[0] in ("query-id", "query_id", "qid"):
            continue
        found += 1
        reading.judge(where, values[0], _cell(where, values[-2]), _grade(where, values[-1]))
    if not found:
        raise ArgumentError(f"{path.name} has no judgements", hint="a line is: query 0 key grade")


# ---------------------------------------------------------------- files


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{path.name} is not UTF-8: {error}", hint="save it as UTF-8") from None


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines that are not empty, each with its place. Only at ends of lines: a text may have others of Unicode's."""
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            yield f"{path.name}, line {number}", line.rstrip("\r")


def _parsed(where: str, text: str) -> Any:
    try:
        return json_values.loads(text)
    except ValueError as error:
        raise ArgumentError(f"{where}: not JSON: {error}", hint='a line is {"query": "...", "relevant": [1]}') from None
