"""rerank(): rows of every shape in, the user's own objects out, the best first."""

from __future__ import annotations

import threading
import time
from collections import UserDict, namedtuple
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from sqlalchemy import create_engine, literal, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from pgmeaning.client import rerank as reranking
from pgmeaning.client.rerank import Ranked, default_reranker, loaded_reranker, rerank
from pgmeaning.errors import ArgumentError, InputError, ModelNotFound, ModelUnavailable
from pgmeaning.models.registry import builtin_model
from pgmeaning.models.vectors import Vectors
from pgmeaning.types import Document, Hit, Model


class Counting:
    """Scores a document by how many of the query's letters it has; keeps what it was asked."""

    def __init__(self) -> None:
        self.documents: list[Document] = []
        self.instruction: str | None = None

    def score(self, query: Document, documents: Sequence[Document], instruction: str | None = None) -> Vectors:
        self.documents, self.instruction = list(documents), instruction
        wanted = query.text or ""
        return np.array([sum(map((document.text or "").count, wanted)) / 100 for document in documents], np.float32)


@pytest.fixture
def judge() -> Counting:
    return Counting()


Point = namedtuple("Point", ["title", "count"])


@dataclass
class Note:
    title: str
    body: str | None = None


class Base(DeclarativeBase):
    pass


class Page(Base):
    __tablename__ = "page"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str]
    count: Mapped[str] = mapped_column(default="counted")


@pytest.fixture
def session() -> Iterator[Session]:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as opened:
        opened.add(Page(id=1, body="rice"))
        opened.commit()
        yield opened
    engine.dispose()


def seen(judge: Counting, row: Any, **where: Any) -> str | None:
    """The text that a reranker gets to read of one row."""
    rerank("q", [row], reranker=judge, **where)
    return judge.documents[0].text


# ---------------------------------------------------------------- order


def test_the_best_row_comes_first(judge: Counting) -> None:
    assert [ranked.row for ranked in rerank("a", ["b", "aa", "a"], reranker=judge)] == ["aa", "a", "b"]


def test_rows_with_equal_scores_keep_their_order(judge: Counting) -> None:
    assert [ranked.index for ranked in rerank("a", ["x", "a", "y", "a", "z"], reranker=judge)] == [1, 3, 0, 2, 4]


def test_top_k_keeps_the_best(judge: Counting) -> None:
    assert [ranked.row for ranked in rerank("a", ["b", "aa", "a"], reranker=judge, top_k=2)] == ["aa", "a"]


@pytest.mark.parametrize(("top_k", "count"), [(0, 0), (3, 2), (None, 2)])
def test_top_k_may_be_anything_from_0(judge: Counting, top_k: int | None, count: int) -> None:
    assert len(rerank("a", ["b", "a"], reranker=judge, top_k=top_k)) == count


def test_a_negative_top_k_is_refused(judge: Counting) -> None:
    with pytest.raises(InputError, match="top_k is -1"):
        rerank("a", ["b"], reranker=judge, top_k=-1)


def test_a_result_tells_place_score_and_row(judge: Counting) -> None:
    assert rerank("a" * 25, ["b", "a"], reranker=judge)[0] == Ranked(1, 0.25, "a")


def test_no_rows_give_no_results_and_load_no_model() -> None:
    assert rerank("a", [], model="nobody-has-this") == []


def test_rows_may_come_from_a_generator(judge: Counting) -> None:
    assert len(rerank("a", (letter for letter in "abc"), reranker=judge)) == 3


def test_the_row_is_the_very_object_that_was_given(judge: Counting) -> None:
    row = {"body": "a"}
    assert rerank("a", [row], text="body", reranker=judge)[0].row is row


def test_the_instruction_reaches_the_model(judge: Counting) -> None:
    rerank("a", ["b"], reranker=judge, instruction="Prefer recipes.")
    assert judge.instruction == "Prefer recipes."


def test_a_query_may_be_a_mapping(judge: Counting) -> None:
    assert rerank({"text": "a"}, ["b", "a"], reranker=judge)[0].row == "a"


# ---------------------------------------------------------------- where a row's text is


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"body": "rice"}, "body"),
        (UserDict(body="rice"), "body"),
        (Point("rice", "x"), "title"),
        (Point("x", "rice"), "count"),
        (Note("rice"), "title"),
        (("x", "rice"), 1),
        (["x", "rice"], -1),
        ({1: "rice"}, 1),
        (("x", "rice"), lambda row: row[1]),
        (Hit({"id": 1}, {"body": "rice"}, 0.1, 0.9), "body"),
        (Hit({"id": "rice"}, {"body": "x"}, 0.1, 0.9), "id"),
        (Hit({"id": 1}, {"body": "x"}, 0.1, 0.9, chunk_text="rice"), "chunk_text"),
    ],
    ids=lambda value: "a function" if callable(value) else repr(value),
)
def test_text_is_found_by_name_place_or_function(judge: Counting, row: Any, text: Any) -> None:
    assert seen(judge, row, text=text) == "rice"


def test_several_columns_are_joined_by_a_blank_line(judge: Counting) -> None:
    assert (
        seen(judge, {"title": "rice", "note": None, "body": "boil"}, text=["title", "note", "body"]) == "rice\n\nboil"
    )


def test_a_value_that_is_no_text_is_written_out(judge: Counting) -> None:
    assert seen(judge, {"price": 3}, text="price") == "3"


def test_a_string_is_its_own_text(judge: Counting) -> None:
    assert seen(judge, "rice") == "rice"


def test_a_hit_is_judged_by_its_chunk(judge: Counting) -> None:
    assert seen(judge, Hit({"id": 1}, {"body": "long"}, 0.1, 0.9, chunk_text="rice")) == "rice"


def test_a_hit_without_chunks_is_judged_by_its_text_columns(judge: Counting) -> None:
    row = {"id": 1, "title": "rice", "price": 3, "body": "boil"}
    assert seen(judge, Hit({"id": 1}, row, 0.1, 0.9)) == "rice\n\nboil"


def test_a_hit_keeps_the_score_of_its_search(judge: Counting) -> None:
    hit = Hit({"id": 1}, {"body": "a"}, 0.1, 0.9)
    assert rerank("a" * 25, [hit], reranker=judge) == [Ranked(0, 0.25, hit)]


@pytest.mark.parametrize(
    "where", [{"text": "body"}, {"text": ["body"]}, {"text": lambda row: row["body"]}], ids=["name", "names", "code"]
)
def test_a_missing_value_is_an_empty_document(judge: Counting, where: Any) -> None:
    assert seen(judge, {"body": None}, **where) == ""


def test_a_missing_row_is_an_empty_document(judge: Counting) -> None:
    assert seen(judge, None) == ""


def test_a_document_is_taken_as_it_is(judge: Counting) -> None:
    rerank("q", [Document("a", images=(b"1",))], reranker=judge)
    assert judge.documents == [Document("a", images=(b"1",))]


# ---------------------------------------------------------------- SQLAlchemy


def test_a_sqlalchemy_row_is_read_by_its_columns(judge: Counting, session: Session) -> None:
    assert seen(judge, session.execute(select(Page.body)).one(), text="body") == "rice"


def test_a_column_called_count_is_not_mistaken_for_a_method(judge: Counting, session: Session) -> None:
    assert seen(judge, session.execute(select(Page.count)).one(), text="count") == "counted"


def test_a_sqlalchemy_mapping_is_read_by_its_keys(judge: Counting, session: Session) -> None:
    assert seen(judge, session.execute(select(Page.body)).mappings().one(), text="body") == "rice"


def test_an_entity_is_read_by_its_attributes(judge: Counting, session: Session) -> None:
    assert seen(judge, session.scalars(select(Page)).one(), text="body") == "rice"


def test_an_entity_inside_a_row_is_found(judge: Counting, session: Session) -> None:
    row = session.execute(select(Page, literal(0.5).label("distance"))).one()
    assert seen(judge, row, text="body") == "rice"


# ---------------------------------------------------------------- images


@pytest.mark.parametrize(
    ("value", "images"), [(b"1", (b"1",)), ([b"1", b"2"], (b"1", b"2")), (None, ())], ids=["one", "several", "none"]
)
def test_images_come_from_the_image_column(judge: Counting, value: Any, images: Any) -> None:
    rerank("q", [{"body": "a", "photo": value}], text="body", image="photo", reranker=judge)
    assert judge.documents == [Document("a", images=images)]


def test_a_row_may_be_an_image_alone(judge: Counting) -> None:
    rerank("q", [{"photo": b"1"}], image="photo", reranker=judge)
    assert judge.documents == [Document("", images=(b"1",))]


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("row", "text", "columns"),
    [
        ({"title": "a", "body": "b"}, "bdy", "title, body"),
        (Point("a", 1), "body", "title, count"),
        (Note("a"), "text", "title, body"),
        (("a", "b"), 2, "0, 1"),
        (Hit({"id": 1}, {"title": "a"}, 0.1, 0.9), "body", "title"),
        ("rice", "body", "nothing"),
        (None, "body", "nothing"),
    ],
    ids=repr,
)
def test_a_wrong_column_is_named_with_those_that_exist(judge: Counting, row: Any, text: Any, columns: str) -> None:
    with pytest.raises(InputError) as failure:
        rerank("q", [row], text=text, reranker=judge)
    assert str(failure.value) == f"row 0 has no column {text!r} (it has: {columns})"


def test_a_wrong_column_is_reported_with_its_row(judge: Counting) -> None:
    with pytest.raises(InputError, match="row 1 has no column 'body'"):
        rerank("q", [{"body": "a"}, {"title": "b"}], text="body", reranker=judge)


def test_a_row_of_columns_needs_to_be_told_which(judge: Counting) -> None:
    with pytest.raises(InputError, match=r"row 0 is a dict.*text=\.\.\., of: title, body"):
        rerank("q", [{"title": "a", "body": "b"}], reranker=judge)


# ---------------------------------------------------------------- which model


def test_the_current_release_says_which_reranker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGMEANING_RERANKER", raising=False)
    assert default_reranker() == "Qwen3-VL-Reranker-8B"


def test_a_setting_names_another_reranker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGMEANING_RERANKER", "nobody-has-this")
    with pytest.raises(ModelNotFound, match="nobody-has-this"):
        rerank("q", ["a"])


def test_an_embedder_is_refused() -> None:
    with pytest.raises(ModelUnavailable, match="not reranker"):
        rerank("q", ["a"], model="synthetic-384")


def test_where_the_model_cannot_run_the_small_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reranking, "load_reranker", _refusing)
    with pytest.raises(ModelUnavailable, match=r"no graphics card.*buy one; .*all-MiniLM-L6-v2-late-interaction"):
        rerank("q", ["a"], model="Qwen3-VL-Reranker-2B")


def _refusing(model: Model, **options: Any) -> None:
    raise ModelUnavailable("no graphics card", hint="buy one")


class Loader:
    """Stands in for load_reranker: counts, and fails the first `failures` times."""

    def __init__(self, failures: int = 0) -> None:
        self.loads: list[tuple[str, dict[str, Any]]] = []
        self.failures = failures
        self.judging = 0

    def __call__(self, model: Model, **options: Any) -> Loader:
        self.loads.append((model.name, options))
        time.sleep(0.02)
        if len(self.loads) <= self.failures:
            raise ModelUnavailable("not yet")
        return self

    def score(self, query: Document, documents: Sequence[Document], instruction: str | None = None) -> Vectors:
        self.judging += 1
        assert self.judging == 1, "two threads judge at once"
        time.sleep(0.005)
        self.judging -= 1
        return np.zeros(len(documents), np.float32)


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Loader:
    monkeypatch.setattr(reranking, "_kept", {})
    fake = Loader()
    monkeypatch.setattr(reranking, "load_reranker", fake)
    return fake


def test_a_model_is_loaded_once(loader: Loader) -> None:
    for _ in range(3):
        rerank("q", ["a"], model="Qwen3-VL-Reranker-2B")
    assert len(loader.loads) == 1


def test_a_model_with_other_options_is_another(loader: Loader) -> None:
    for device in ("cpu", "cuda", "cpu"):
        loaded_reranker("Qwen3-VL-Reranker-2B", device=device)
    assert [options["device"] for _, options in loader.loads] == ["cpu", "cuda"]


def test_a_model_of_the_callers_own_is_taken(loader: Loader) -> None:
    loaded_reranker(builtin_model("Qwen3-VL-Reranker-2B"))
    assert loader.loads == [("Qwen3-VL-Reranker-2B", {})]


def test_threads_share_one_model_and_take_turns(loader: Loader) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            rerank("q", ["a"], model="Qwen3-VL-Reranker-2B")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(loader.loads), failures) == (1, [])


def test_a_model_that_failed_to_load_is_tried_again(loader: Loader) -> None:
    loader.failures = 1
    with pytest.raises(ModelUnavailable):
        rerank("q", ["a"], model="Qwen3-VL-Reranker-2B")
    assert len(rerank("q", ["a"], model="Qwen3-VL-Reranker-2B")) == 1


@pytest.mark.parametrize("rows", ["mouse", b"mouse", {"text": "mouse"}])
def test_one_row_in_place_of_a_list_of_rows_is_refused(rows: Any) -> None:
    with pytest.raises(ArgumentError, match="give a list"):
        rerank("cat", rows)
