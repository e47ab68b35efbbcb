"""The report is one file that needs nothing else, and no text of the data gets out of its place."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np

from pgmeaning.evaluation.compare import estimate
from pgmeaning.evaluation.report import html
from pgmeaning.evaluation.results import (
    Changed,
    Difference,
    Evaluation,
    Likeness,
    Measured,
    Shown,
    Tuned,
    Way,
)  # fmt: skip

EVIL = "</script><script>alert(1)</script>\"'&<img src=x onerror=y>$title"
OLD, NEW = Way("docs", "vectors"), Way(f"docs@2{EVIL}", "vectors")
ESTIMATE = estimate(np.array([0.5, 0.7, 0.9]))
ROW = Shown(f'{{"id": "{EVIL}"}}', EVIL, 1)


def evaluation(**changes: object) -> Evaluation:
    measures = {"nDCG@10": ESTIMATE, "MRR": ESTIMATE}
    values: dict[str, object] = {
        "collection": "docs", "source": f"public.{EVIL}", "name": EVIL, "queries": 3, "judged": 3, "k": 10,
        "warnings": (EVIL,),
        "measured": tuple(Measured(way, EVIL, measures, {EVIL: measures}, 1.0, 2.0) for way in (OLD, NEW)),
        "differences": (Difference(NEW, OLD, "nDCG@10", EVIL, 0.7, 0.5, ESTIMATE),),
        "likenesses": (Likeness(NEW, OLD, ESTIMATE, ESTIMATE),),
        "changed": (Changed(NEW, OLD, EVIL, (EVIL,), 0.25, 0.5, (ROW,), (Shown("{}", None, 0),)),),
        "tuned": (Tuned(NEW, OLD, 3, (), ESTIMATE, ESTIMATE, ESTIMATE, EVIL, EVIL),),
    }  # fmt: skip
    return Evaluation(**{**values, **changes})  # type: ignore[arg-type]


class Page(HTMLParser):
    """What a browser would make of it: tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "line", "circle", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_no_text_of_the_data_becomes_markup() -> None:
    page = Page(html(evaluation()))
    assert not {"script", "img", "a", "link", "iframe", "object"} & set(page.tags)
    assert page.open == []
    assert page.text.count(EVIL) >= 10


def test_nothing_is_loaded_from_elsewhere() -> None:
    page = html(evaluation())
    assert not re.search(r"https?:|url\(|@import|src=\"|href=", page.replace(EVIL, ""))
    assert "default-src 'none'" in page
    assert not {name for name, _ in Page(page).attributes} & {"src", "href", "onload", "onerror", "onclick"}


def test_it_has_colours_for_dark_and_light() -> None:
    page = html(evaluation())
    assert "color-scheme: light dark" in page
    assert "prefers-color-scheme: dark" in page


def test_it_shows_measures_intervals_tags_and_both_lists() -> None:
    page = Page(html(evaluation(), datetime(2026, 2, 1, 12, 30, tzinfo=UTC)))
    for text in ("0.700 [0.500, 0.900]", "2026-02-01 12:30 UTC", "By language and tag", "+0.250", "nothing found"):
        assert (text in page.text) == (text != "nothing found"), text
    assert [value for name, value in page.attributes if (name, value) == ("class", "answer")] == ["answer"]


def test_without_judgements_there_are_no_empty_tables() -> None:
    measured = (Measured(OLD, "m", {}, {}, 1.0, 2.0),)
    page = Page(html(evaluation(measured=measured, differences=(), tuned=(), changed=(), likenesses=())))
    assert "Differences" not in page.text
    assert "By language" not in page.text
    assert page.tags.count("table") == 1


def test_a_difference_without_an_interval_is_shown_too() -> None:
    one = estimate(np.array([0.0]))
    page = Page(html(evaluation(differences=(Difference(NEW, OLD, "MRR", None, 0.5, 0.5, one),))))
    assert "+0.000" in page.text
