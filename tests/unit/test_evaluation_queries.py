"""Judged queries are read from the formats that people have, and what is wrong with a file is said with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pgmeaning.errors import ArgumentError
from pgmeaning.evaluation import Queries, Query, read_queries, to_queries


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def lines(folder: Path, *records: Any) -> Queries:
    return read_queries(written(folder, "queries.jsonl", "\n".join(json.dumps(record) for record in records)))


def refusal(path: Path, qrels: Path | None = None) -> str:
    with pytest.raises(ArgumentError) as caught:
        read_queries(path, qrels)
    assert caught.value.hint
    return str(caught.value.args[0])


# JSON lines


def test_json_lines_have_keys_grades_and_tags(tmp_path: Path) -> None:
    record = {
        "id": "q1",
        "query": "rice",
        "relevant": [1, {"id": 2}],
        "grades": [2, 1],
        "language": "de",
        "tags": ["a"],
    }
    assert lines(tmp_path, record).queries == (Query("q1", "rice", ((1, 2), ({"id": 2}, 1)), ("de", "a")),)


def test_one_key_need_not_be_a_list_and_grades_are_one_by_default(tmp_path: Path) -> None:
    found = lines(tmp_path, {"query": "rice", "relevant": "a"}, {"query": "bread", "relevant": {"t": 1, "id": 2}})
    assert [query.relevant for query in found.queries] == [(("a", 1),), (({"t": 1, "id": 2}, 1),)]


def test_a_query_need_not_be_judged(tmp_path: Path) -> None:
    assert lines(tmp_path, {"query": "rice"}).queries == (Query("1", "rice"),)


def test_a_grade_of_zero_is_no_answer(tmp_path: Path) -> None:
    assert lines(tmp_path, {"query": "rice", "relevant": [1, 2], "grades": [0, -1]}).queries[0].relevant == ()


def test_a_byte_order_mark_and_empty_lines_are_no_part_of_the_text(tmp_path: Path) -> None:
    path = written(tmp_path, "q.jsonl", '\ufeff{"query": "rice"}\r\n\r\n{"query": "bread\u2028"}\n')
    assert [query.text for query in read_queries(path).queries] == ["rice", "bread\u2028"]


def test_fractions_in_keys_keep_their_digits(tmp_path: Path) -> None:
    path = written(tmp_path, "q.jsonl", '{"query": "x", "relevant": [1.10]}')
    assert str(read_queries(path).queries[0].relevant[0][0]) == "1.10"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "q.jsonl has no queries"),
        ("\n \n", "q.jsonl has no queries"),
        ('{"query": "x"}\n{"query": ', "q.jsonl, line 2: not JSON"),
        ("5", "q.jsonl, line 1: not an object"),
        ('{"relevant": [1]}', "q.jsonl, line 1: there is no query"),
        ('{"query": "  "}', "q.jsonl, line 1: there is no query"),
        (
            '{"query": "x", "id": 1}\n{"query": "y", "id": "1"}',
            "q.jsonl, line 2: there are two queries with the id '1'",
        ),
        ('{"query": "x", "relevant": [1, 2], "grades": [1]}', "q.jsonl, line 1: 1 grades for 2 keys"),
        ('{"query": "x", "relevant": [1], "grades": ["good"]}', "q.jsonl, line 1: 'good' is no grade"),
        ('{"query": "x", "relevant": [1], "grades": [0.5]}', "q.jsonl, line 1: Decimal('0.5') is no grade"),
        ('{"query": "x", "relevant": [1], "grades": [true]}', "q.jsonl, line 1: True is no grade"),
        ('{"query": "x", "relevant": [null]}', "q.jsonl, line 1: None is no key"),
        ('{"query": "x", "relevant": [[1]]}', "q.jsonl, line 1: [1] is no key"),
        ('{"query": "x", "relevant": [1, 1], "grades": [1, 2]}', "q.jsonl, line 1: 1 has two grades, 1 and 2"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, says: str) -> None:
    assert refusal(written(tmp_path, "q.jsonl", text)).startswith(says)


def test_what_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(b'{"query": "caf\xe9"}')
    assert refusal(path).startswith("q.jsonl is not UTF-8")


def test_judgements_made_twice_and_unknown_fields_are_counted(tmp_path: Path) -> None:
    found = lines(
        tmp_path,
        {"query": "x", "relevant": ["a", "a", "b", "b"], "qrels": 1},
        {"query": "y", "qrels": 2, "relevant": 5},
    )
    assert set(found.warnings) == {
        "2 judgements were made twice", '2 queries have a field "qrels", which means nothing here'
    }  # fmt: skip


def test_mappings_are_read_as_lines_are() -> None:
    found = to_queries([{"query": "rice", "relevant": (1, 2)}])
    assert found.queries == (Query("1", "rice", ((1, 1), (2, 1))),)


# CSV


def test_csv_has_a_row_for_each_judgement(tmp_path: Path) -> None:
    text = 'query,relevant,grade,language,tags\nrice,1,2,de,"a; b"\nbread,2,1,en,\nrice,3,1,,\n'
    assert read_queries(written(tmp_path, "q.csv", text)).queries == (
        Query("rice", "rice", (("1", 2), ("3", 1)), ("de", "a", "b")),
        Query("bread", "bread", (("2", 1),), ("en",)),
    )


def test_csv_may_have_json_in_a_cell_and_ids(tmp_path: Path) -> None:
    text = 'id,query,relevant,grades\n7,"rice, cooked","[1, {""id"": 2}]","[2, 1]"\n8,bread,,\n'
    assert read_queries(written(tmp_path, "q.csv", text)).queries == (
        Query("7", "rice, cooked", ((1, 2), ({"id": 2}, 1))), Query("8", "bread"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "q.csv has no column query"),
        ("query,relevant\n", "q.csv has no queries"),
        ("text,relevant\nrice,1\n", "q.csv has no column query"),
        ("query,relevant\nrice,1,2\n", "q.csv, line 2: it has not as many values"),
        ("query,relevant\nrice\n", "q.csv, line 2: it has not as many values"),
        ("id,query,relevant\n1,rice,1\n1,bread,2\n", "q.csv, line 3: there are two queries with the id '1'"),
        ("query,relevant\nrice,[1\n", "q.csv, line 2: not JSON"),
        ("query,relevant,grade\nrice,1,high\n", "q.csv, line 2: 'high' is no grade"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, text: str, says: str) -> None:
    assert refusal(written(tmp_path, "q.csv", text)).startswith(says)


# TREC and BEIR

TOPICS = "<top>\n<num> Number: 301\n<title> Topic: Rice dishes\n<desc> ...\n</top>\n<top><num>302<title>Bread</top>\n"


@pytest.mark.parametrize("topics", [TOPICS, "301\tRice dishes\n302\tBread\n"])
def test_trec_topics_come_with_qrels(tmp_path: Path, topics: str) -> None:
    path = written(tmp_path, "topics.txt", topics)
    qrels = written(tmp_path, "qrels.txt", "301 0 d1 2\n301 0 d2 0\n302 0 d2 1\n302 0 d2 1\n303 0 d1 1\n")
    found = read_queries(path, qrels)
    assert found.queries == (Query("301", "Rice dishes", (("d1", 2),)), Query("302", "Bread", (("d2", 1),)))
    assert found.warnings == ("1 judgements were made twice", "1 judged queries have no text, and are left out")


def test_a_beir_folder_has_queries_and_the_judgements_of_its_test(tmp_path: Path) -> None:
    records = [{"_id": "q1", "text": "rice", "metadata": {}}, {"_id": "q2", "text": "bread", "metadata": {}}]
    written(tmp_path, "queries.jsonl", "\n".join(map(json.dumps, records)))
    written(tmp_path, "qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\t5\t1\n")
    written(tmp_path, "qrels/train.tsv", "query-id\tcorpus-id\tscore\nq2\t6\t1\n")
    found = read_queries(tmp_path)
    assert found.queries == (Query("q1", "rice", (("5", 1),)),)
    assert found.warnings == ("1 queries are not in test.tsv, and are left out",)
    assert read_queries(tmp_path, tmp_path / "qrels" / "train.tsv").queries == (Query("q2", "bread", (("6", 1),)),)


@pytest.mark.parametrize(
    ("qrels", "says"),
    [
        ("", "qrels.txt has no judgements"),
        ("301 d1\n", "qrels.txt, line 1: 2 values"),
        ("301 0 d1 good\n", "qrels.txt, line 1: 'good' is no grade"),
        ("301 0 d1 1\n301 0 d1 2\n", "qrels.txt, line 2: 'd1' has two grades"),
    ],
)
def test_a_wrong_judgement_is_named(tmp_path: Path, qrels: str, says: str) -> None:
    topics = written(tmp_path, "topics.txt", "301\tRice\n")
    assert refusal(topics, written(tmp_path, "qrels.txt", qrels)).startswith(says)


@pytest.mark.parametrize(
    ("topics", "says"),
    [
        ("301 Rice\n", "topics.txt, line 1: no tab"),
        ("301\tRice\n301\tBread\n", "topics.txt, line 2: there are two queries with the id '301'"),
        ("<top><num>5</top>", "topics.txt, topic 1: there is no query"),
    ],
)
def test_a_wrong_topic_is_named(tmp_path: Path, topics: str, says: str) -> None:
    path = written(tmp_path, "topics.txt", topics)
    assert refusal(path, written(tmp_path, "qrels.txt", "301 0 d1 1\n")).startswith(says)


def test_a_folder_that_is_not_beirs_says_what_is_missing(tmp_path: Path) -> None:
    assert refusal(tmp_path).endswith("queries.jsonl is not there")


def test_a_file_that_is_not_there_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_queries(tmp_path / "nope.jsonl")
