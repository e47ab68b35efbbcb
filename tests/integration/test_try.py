"""`pgmeaning try`: odd files become tables, once and whole; types, key and template are guessed."""

from __future__ import annotations

import datetime
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pgmeaning.errors import InputError
from pgmeaning.tryout.files import opened
from pgmeaning.tryout.guess import embedded, seen, template
from pgmeaning.tryout.load import Loaded, load
from pgmeaning.tryout.run import Wishes, run
from tests.types import Connection


def made(folder: Path, content: str | bytes, name: str = "things.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def loaded(db: Connection, path: Path, table: str = "things") -> Loaded:
    return load(db, opened(path), table)


def types(found: Loaded) -> dict[str, str]:
    return {column.name: column.type for column in found.columns}


def rows(db: Connection, table: str = "things") -> list[Any]:
    return db.execute(f'SELECT * FROM "{table}" ORDER BY 1'.encode()).fetchall()


def test_a_csv_gets_types_a_key_and_its_rows(db: Connection, tmp_path: Path) -> None:
    path = made(
        tmp_path, "id,name,price,made,ok,code\n2,red bike,19.5,2024-02-29,true,007\n1,cup,3,2023-01-01,FALSE,\n"
    )
    found = loaded(db, path)
    assert types(found) == {
        "id": "bigint", "name": "text", "price": "numeric", "made": "date", "ok": "boolean", "code": "text",
    }  # fmt: skip
    assert (found.key, found.rows) == ("id", 2)
    assert rows(db)[1][1:] == ("red bike", pytest.approx(19.5), datetime.date(2024, 2, 29), True, "007")
    assert rows(db)[0][5] is None


def test_twice_is_as_once_and_a_changed_file_changes_its_rows_alone(db: Connection, tmp_path: Path) -> None:
    path = made(tmp_path, "id,name\n1,one\n2,two\n3,three\n")
    assert (loaded(db, path).changed, loaded(db, path).changed) == (3, 0)
    made(tmp_path, "id,name\n1,one\n2,TWO\n4,four\n")
    again = loaded(db, path)
    assert (again.changed, again.removed) == (2, 1)
    assert rows(db) == [(1, "one"), (2, "TWO"), (4, "four")]


def test_without_a_key_rows_are_numbered_and_still_not_doubled(db: Connection, tmp_path: Path) -> None:
    path = made(tmp_path, "row,name\nx,same\nx,same\n")
    assert loaded(db, path).key == "row_2"
    assert loaded(db, path).changed == 0
    assert rows(db) == [(1, "x", "same"), (2, "x", "same")]


@pytest.mark.parametrize(
    ("content", "columns", "first"),
    [
        ("\ufeffid,name\n1,bike\n", ["id", "name"], (1, "bike")),
        ("id;näme\n1;Ö\n".encode("cp1252"), ["id", "näme"], (1, "Ö")),
        ("id\tname\n1\tÖ\n".encode("utf-16"), ["id", "name"], (1, "Ö")),
        ("id,a,a,,a\n1,2,3,4,5\n", ["id", "a", "a_2", "column_4", "a_3"], (1, 2, 3, 4, 5)),
        ('id,select,"we""ird %s {x}"\n1,2,3\n', ["id", "select", 'we"ird %s {x}'], (1, 2, 3)),
        ("id,name,more\n1,short\n", ["id", "name", "more"], (1, "short", None)),
        ("id,name\n1,a, b, c\n", ["id", "name"], (1, "a, b, c")),
        ('id,name\n1,"two\nlines"\n\n', ["id", "name"], (1, "two\nlines")),
        ("id,name\n1,nul\0byte\n", ["id", "name"], (1, "nulbyte")),
    ],
    ids=["BOM", "latin-1", "UTF-16", "twice", "odd names", "short row", "long row", "line end", "null byte"],
)
def test_odd_files_are_read_as_people_mean_them(
    db: Connection, tmp_path: Path, content: str | bytes, columns: list[str], first: tuple[Any, ...]
) -> None:
    path = made(tmp_path, content)
    assert opened(path).columns == columns
    loaded(db, path)
    assert rows(db) == [first]


def test_one_column_and_a_huge_text(db: Connection, tmp_path: Path) -> None:
    found = loaded(db, made(tmp_path, "text\n" + "word " * 400_000 + "\nother text\n"))
    assert (found.key, types(found)) == ("row", {"text": "text"})
    assert len(rows(db)[0][1]) > 1_900_000


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("", "things.csv", "is empty"),
        ("a,b\n", "things.csv", "columns, but no rows"),
        ("x", "things.docx", "no known kind"),
        ('{"a": 1}\n{"a": \n', "things.jsonl", "line 2 is not JSON"),
        ("[1]\n", "things.jsonl", "line 1 is no object"),
        ("no parquet", "things.parquet", "is no Parquet file"),
    ],
)
def test_what_cannot_be_read_is_said_in_words(
    db: Connection, tmp_path: Path, content: str, name: str, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        loaded(db, made(tmp_path, content, name))


def test_json_lines_may_nest_and_lack_fields(db: Connection, tmp_path: Path) -> None:
    content = '{"id": 1, "tags": ["a"], "x": {"y": 1.50}}\n\n{"id": 2, "late": "z\\u0000", "tags": null}\n'
    found = loaded(db, made(tmp_path, content, "things.jsonl"))
    assert types(found) == {"id": "bigint", "tags": "jsonb", "x": "jsonb", "late": "text"}
    assert rows(db)[1] == (2, None, None, "z")


def test_columns_of_parquet_keep_their_types(db: Connection, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    moment = datetime.datetime(2024, 1, 2, 3, 4, tzinfo=datetime.UTC)
    columns = {"id": [1, 2], "score": [0.5, None], "at": [moment, None], "raw": [b"\0\xff", None], "list": [[1], []]}
    parquet.write_table(pa.table(columns), tmp_path / "things.parquet")
    found = loaded(db, tmp_path / "things.parquet")
    assert types(found) == {"id": "bigint", "score": "numeric", "at": "timestamptz", "raw": "bytea", "list": "jsonb"}
    assert rows(db)[0][2:4] == (moment, b"\0\xff")


def test_a_table_of_somebody_elses_is_left_alone(db: Connection, tmp_path: Path) -> None:
    db.execute("CREATE TABLE things (id int)")
    with pytest.raises(InputError, match="not from here"):
        loaded(db, made(tmp_path, "id\n1\n"))


def test_what_is_worth_searching_is_text_with_its_title_first() -> None:
    columns, _ = seen(
        ["id", "url", "body", "title", "lang"],
        [[1, "https://a.example/x", "A long text about bikes.", "Red bike", "en"]] * 3,
    )
    assert embedded(columns) == ["title", "body"]
    assert template(["title", "body"]) == "{title}\n\n{body}"
    assert template(["a{b"]) is None


def test_a_title_of_one_word_is_searched_too() -> None:
    columns, _ = seen(["plot", "title", "year"], [["A shark attacks bathers.", "Jaws", 1974]] * 3)
    assert embedded(columns) == ["title", "plot"]


def test_the_command_may_be_run_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = made(tmp_path, "id,text\n1,red bike\n2,blue car\n")
    pages: list[str] = []
    with tempfile.TemporaryDirectory(prefix="pgmeaning-try-") as folder:
        Path(folder).chmod(0o755)  # as root the server runs as another account, which must get through
        wishes = Wishes(model="synthetic-384", query="red bike", data_dir=Path(folder) / "server")
        for _ in range(2):
            run(str(path), wishes, pages.append)
    first, second = capfd.readouterr().out.split('table "things":')[1:]
    assert "2 rows new or changed" in first
    assert "attached by an earlier run, as collection things" in second
    assert len(pages) == 2
