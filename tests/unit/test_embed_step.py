"""The embed step where a device works on by itself: one batch is launched before the last one's vectors are awaited."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from pgmeaning.errors import EndpointDown, InputError
from pgmeaning.models.base import Embedder
from pgmeaning.models.loaded import LoadedModels, PriorityLock
from pgmeaning.models.pipeline import Budget, Ready
from pgmeaning.models.synthetic import SyntheticEmbedder
from pgmeaning.models.vectors import Vectors
from pgmeaning.settings import Settings
from pgmeaning.sidecar.bounded_queue import BoundedQueue
from pgmeaning.sidecar.embed import EmbedStep
from pgmeaning.sidecar.pace import Paces
from pgmeaning.sidecar.row_vectors import measured
from pgmeaning.sidecar.run import Run
from pgmeaning.sidecar.work import Output, Work
from pgmeaning.types import Claim, Document, Row, Target

RUN = Run("", Settings(batch_rows=2))
TARGET = Target(
    collection_id=1, collection="docs", model="launched", dimensions=32, vector_type="vector", paused=False,
    problem=None, source_exists=True, scanning=False, columns=("body",), template_parts=None, image=None, video=None,
    key_width=1, parts={},
)  # fmt: skip


class Launched(SyntheticEmbedder):
    """Begins batches of two rows, and fails where a text is poison: at once, or when its vectors are awaited."""

    def __init__(self, events: list[str], poison: str = "", *, late: bool = True) -> None:
        super().__init__(32)
        self.events = events
        self.poison = poison
        self.late = late
        self.budget = Budget(tokens=1000, rows=2, claim_rows=100, padded=False, launched=True)

    def embed_documents(self, documents: Sequence[Document]) -> Vectors:
        if any(document.text == self.poison for document in documents):
            raise ValueError("poison")
        return super().embed_documents(documents)

    def begin_documents(self, documents: Sequence[Document]) -> Callable[[], Vectors]:
        texts = "".join(str(document.text) for document in documents)
        self.events.append(f"begin {texts}")
        if not self.late and self.poison in texts:
            raise ValueError("poison")

        def finish() -> Vectors:
            self.events.append(f"finish {texts}")
            return self.embed_documents(documents)

        return finish


def embedded(embedder: Embedder, *works: str, lock: PriorityLock | None = None) -> list[Output]:
    """What the step hands on for works of rows with one letter each."""
    work: BoundedQueue[Work] = BoundedQueue(10)
    outputs: BoundedQueue[Output] = BoundedQueue(100)
    for letters in works:
        rows = tuple(Row(Claim(1, "launched", letter, 1, 1), Document(letter)) for letter in letters)
        work.put(measured(RUN, Work(TARGET, rows, embedder)))
    work.end()
    models: LoadedModels[Embedder] = LoadedModels(lambda name: embedder, lock)
    EmbedStep(RUN, models, Paces(), work, outputs).run()
    found = []
    while (output := outputs.get_nowait()) is not None:
        found.append(output)
    return found


def test_a_batch_is_launched_before_the_vectors_of_the_last_are_awaited() -> None:
    events: list[str] = []
    embedded(Launched(events), "abcdef")
    assert events == ["begin ab", "begin cd", "finish ab", "begin ef", "finish cd", "finish ef"]


def test_the_next_work_that_is_there_already_is_launched_first_too() -> None:
    events: list[str] = []
    embedded(Launched(events), "ab", "cd")
    assert events == ["begin ab", "begin cd", "finish ab", "finish cd"]


def test_each_row_gets_the_vector_of_its_own_text() -> None:
    texts, vectors = [], []
    for output in embedded(Launched([]), "abcde", "fg"):
        texts += [str(row.claim.key) for row in output.rows]
        vectors += list(output.vectors)
    assert sorted(texts) == list("abcdefg")
    assert np.array_equal(np.array(vectors), SyntheticEmbedder(32).embed_documents([Document(text) for text in texts]))


@pytest.mark.parametrize("late", [False, True])
def test_a_poison_fails_alone_whenever_it_shows(late: bool) -> None:
    outputs = embedded(Launched([], poison="c", late=late), "abcdef")
    assert sorted(row.claim.key for output in outputs for row in output.rows) == list("abdef")
    assert [(claim.key, error) for output in outputs for claim, error in output.errors] == [("c", "ValueError: poison")]


def test_an_endpoint_that_goes_down_under_a_launched_batch_costs_no_row_an_attempt() -> None:
    class Down(Launched):
        def begin_documents(self, documents: Sequence[Document]) -> Callable[[], Vectors]:
            finish = super().begin_documents(documents)

            def down() -> Vectors:
                if any(document.text == self.poison for document in documents):
                    raise EndpointDown("gone")
                return finish()

            return down

    outputs = embedded(Down([], poison="c"), "abcdef")
    assert [row.claim.key for output in outputs for row in output.rows] == ["a", "b"]
    assert [claim.key for output in outputs for claim in output.handed_back] == list("cdef")
    assert not any(output.errors for output in outputs)


def test_rows_that_need_no_vector_are_handed_on_once_and_fail_nothing() -> None:
    work: BoundedQueue[Work] = BoundedQueue(10)
    outputs: BoundedQueue[Output] = BoundedQueue(100)
    embedder = Launched([])
    rows = tuple(Row(Claim(1, "launched", letter, 1, 1), Document(letter), unchanged=True) for letter in "ab")
    work.put(measured(RUN, Work(TARGET, rows, embedder)))
    work.end()
    models: LoadedModels[Embedder] = LoadedModels(lambda name: embedder)
    EmbedStep(RUN, models, Paces(), work, outputs).run()
    output = outputs.get_nowait()
    assert output is not None
    assert (output.rows, output.errors) == (rows, ())
    assert outputs.get_nowait() is None


def test_a_backend_that_cannot_launch_hands_on_each_batch_at_once() -> None:
    class Plain(SyntheticEmbedder):
        def embed_documents(self, documents: Sequence[Document]) -> Vectors:
            events.append("embed")
            return super().embed_documents(documents)

    class Watched(BoundedQueue[Output]):
        def put(self, item: Output, *, urgent: bool = False) -> bool:
            events.append("output")
            return super().put(item)

    events: list[str] = []
    embedder = Plain(32)
    rows = tuple(Row(Claim(1, "launched", letter, 1, 1), Document(letter)) for letter in "abcd")
    work: BoundedQueue[Work] = BoundedQueue(10)
    work.put(measured(RUN, Work(TARGET, rows, embedder)))
    work.end()
    models: LoadedModels[Embedder] = LoadedModels(lambda name: embedder)
    EmbedStep(RUN, models, Paces(), work, Watched(10)).run()
    assert events == ["embed", "output", "embed", "output"]


def test_images_are_decoded_while_queries_may_go() -> None:
    lock = PriorityLock()
    events: list[str] = []

    class Decoding(SyntheticEmbedder):
        def ready(self, documents: Sequence[Document]) -> Iterator[Ready]:
            with lock.query():  # it would wait for ever if the turn were taken
                events.append("decoded")
            return iter([Ready(documents)])

        def embed_documents(self, documents: Sequence[Document]) -> Vectors:
            events.append("embedded")
            return super().embed_documents(documents)

    embedded(Decoding(32), "ab", lock=lock)
    assert events == ["decoded", "embedded"]


def test_a_document_that_cannot_be_decoded_fails_alone_and_reaches_no_model() -> None:
    seen: list[str | None] = []

    class Choosy(SyntheticEmbedder):
        def ready(self, documents: Sequence[Document]) -> Iterator[Ready]:
            for document in documents:
                yield Ready([document], InputError("too large") if document.text == "b" else None)

        def embed_documents(self, documents: Sequence[Document]) -> Vectors:
            seen.extend(document.text for document in documents)
            return super().embed_documents(documents)

    outputs = embedded(Choosy(32), "abc")
    assert seen == ["a", "c"]
    assert [(claim.key, error) for output in outputs for claim, error in output.errors] == [("b", "too large")]
    assert sorted(row.claim.key for output in outputs for row in output.rows) == ["a", "c"]
