"""An evaluation as one HTML file that needs nothing else: no script, no link; every text of the data is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from string import Template

from pgmeaning.evaluation.compare import Estimate
from pgmeaning.evaluation.results import Changed, Difference, Evaluation, Measured, Shown, Tuned
from pgmeaning.version import __version__

WIDTH, HEIGHT = 180, 16


def html(found: Evaluation, at: datetime | None = None) -> str:
    """The page. `at`: when it was evaluated; None: now."""
    template = Template((files("pgmeaning.evaluation") / "report.html").read_text(encoding="utf-8"))
    parts = [
        _head(found, at or datetime.now(UTC)), _warnings(found), _measures(found), _differences(found),
        _likenesses(found), _tags(found), _tuned(found.tuned), _changed(found.changed),
    ]  # fmt: skip
    title = escape(f"Evaluation of {', '.join(found.names)}")
    return template.substitute(title=title, body="\n".join(part for part in parts if part))


def _head(found: Evaluation, at: datetime) -> str:
    told = [
        found.source, *dict.fromkeys(one.model for one in found.measured),
        f"{found.queries:,} queries of {found.name}, {found.judged:,} of them judged", f"{at:%Y-%m-%d %H:%M %Z}",
        f"pgmeaning {__version__}",
    ]  # fmt: skip
    return f'<h1>{escape(" and ".join(found.names))}</h1><p class="soft">{escape(" · ".join(told))}</p>'


def _warnings(found: Evaluation) -> str:
    items = "".join(f"<li>{escape(warning)}</li>" for warning in found.warnings)
    return f'<ul class="warnings">{items}</ul>' if items else ""


# ---------------------------------------------------------------- tables


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: int) -> str:
    """The last `numbers` columns are numbers; cells are HTML."""
    first = len(heads) - numbers
    kinds = ['class="number"' if place >= first else "" for place in range(len(heads))]
    head = "".join(f"<th {kind}>{escape(name)}</th>" for name, kind in zip(heads, kinds, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td {kind}>{cell}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _measures(found: Evaluation) -> str:
    names = list(found.measured[0].measures)
    rows = [
        [escape(one.way.label), *map(_valued, one.measures.values()), f"{one.p50:.1f}", f"{one.p95:.1f}"]
        for one in found.measured
    ]
    note = "Intervals hold the mean with 95 % confidence. A search's time is without the query's vector."
    table = _table(["", *names, "p50 ms", "p95 ms"], rows, len(names) + 2)
    return f'<h2>Measures</h2>{table}<p class="soft">{note}</p>'


def _valued(value: Estimate) -> str:
    width = max(0.0, min(1.0, value.mean)) * 100
    return f'{value.mean:.3f}{_interval(value)}<span class="bar"><i style="width:{width:.1f}%"></i></span>'


def _interval(value: Estimate) -> str:
    return "" if value.low is None else f' <span class="soft">[{value.low:.3f}, {value.high:.3f}]</span>'


def _differences(found: Evaluation) -> str:
    if not found.differences:
        return ""
    reach = max(abs(edge or 0) for one in found.differences for edge in _edges(one.change)) or 1
    rows = [_difference(one, reach) for one in found.differences]
    heads = ["", "beside", "measure", "tag", "", "n", "value", "beside", "change"]
    return f"<h2>Differences</h2>{_table(heads, rows, 4)}"


def _edges(change: Estimate) -> tuple[float | None, float, float | None]:
    return change.low, change.mean, change.high


def _difference(one: Difference, reach: float) -> list[str]:
    change = f'<span class="{_direction(one.change)}">{one.change.mean:+.3f}</span>{_interval(one.change)}'
    return [
        escape(one.way.label), escape(one.base.label), escape(one.measure), escape(one.tag or "all"),
        _picture(one.change, reach), f"{one.change.n:,}", f"{one.value:.3f}", f"{one.base_value:.3f}", change,
    ]  # fmt: skip


def _direction(change: Estimate) -> str:
    return "soft" if not change.is_certain else "more" if change.mean > 0 else "less"


def _picture(change: Estimate, reach: float) -> str:
    """The interval on an axis around zero."""
    low, mean, high = (WIDTH / 2 * (1 + 0.95 * (edge or 0) / reach) for edge in _edges(change))
    span = "" if change.low is None else f'<line class="span" x1="{low:.1f}" x2="{high:.1f}" y1="8" y2="8"/>'
    return (
        f'<svg class="{_direction(change)}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{change.mean:+.3f}"><line class="axis" x1="{WIDTH / 2}" x2="{WIDTH / 2}" y1="0" y2="{HEIGHT}"/>'
        f'{span}<circle class="dot" cx="{mean:.1f}" cy="8" r="3.5"/></svg>'
    )


def _likenesses(found: Evaluation) -> str:
    rows = [
        [escape(one.way.label), escape(one.base.label), _valued(one.overlap), _valued(one.rank_biased_overlap)]
        for one in found.likenesses
    ]
    table = _table(["", "beside", "overlap@10", "rank-biased overlap"], rows, 2)
    return f"<h2>How alike the lists are</h2>{table}" if rows else ""


def _tags(found: Evaluation) -> str:
    names = list(found.measured[0].measures)
    rows = list(_tag_rows(found.measured))
    return f"<h2>By language and tag</h2>{_table(['tag', '', 'n', *names], rows, len(names) + 1)}" if rows else ""


def _tag_rows(measured: Sequence[Measured]) -> Iterator[list[str]]:
    for tag in measured[0].tags:
        for one in measured:
            values = list(one.tags[tag].values())
            yield [escape(tag), escape(one.way.label), f"{values[0].n:,}", *map(_valued, values)]


# ---------------------------------------------------------------- tuning, and queries


def _tuned(tuned: Sequence[Tuned]) -> str:
    parts = [
        f"<h3>{escape(one.way.label)}</h3><p>Chosen on {one.chosen_on:,} queries; "
        f"on the other {one.value.n:,} nDCG@10 is {one.value.mean:.3f} instead of {one.default_value.mean:.3f}: "
        f'<span class="{_direction(one.change)}">{one.change.mean:+.3f}</span>{_interval(one.change)}</p>'
        f"<pre>{escape(one.statement)};\n\n{escape(one.call)}</pre>"
        for one in tuned
    ]
    return f"<h2>Tuning</h2>{''.join(parts)}" if parts else ""


def _changed(changed: Sequence[Changed]) -> str:
    items = "".join(_query(one, is_open=place == 0) for place, one in enumerate(changed))
    note = '<p class="soft">A line at the left marks rows that are judged to answer.</p>'
    return f"<h2>Queries that changed most</h2>{note}{items}" if items else ""


def _query(one: Changed, *, is_open: bool) -> str:
    change = "" if one.change is None else f"nDCG@10 {one.change:+.3f} · "
    tags = "".join(f" · {escape(tag)}" for tag in one.tags)
    told = f"{change}rank-biased overlap {one.rank_biased_overlap:.2f}{tags}"
    return (
        f"<details{' open' if is_open else ''}><summary><b>{escape(one.query)}</b> "
        f'<span class="soft">{told}</span></summary><div class="sides">'
        f"{_side(one.base.label, one.before)}{_side(one.way.label, one.after)}</div></details>"
    )


def _side(label: str, shown: Sequence[Shown]) -> str:
    items = "".join(_item(row) for row in shown)
    return f"<div><h3>{escape(label)}</h3><ol>{items or '<li>nothing found</li>'}</ol></div>"


def _item(row: Shown) -> str:
    kind = ' class="answer"' if row.grade else ""
    return f"<li{kind}><code>{escape(row.key)}</code> {escape(row.text or '')}</li>"
