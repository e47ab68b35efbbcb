"""Where no tokenizer is at hand: ever shorter beginnings of a text, of which an engine takes the first that fits."""

from __future__ import annotations

from collections.abc import Iterator

from pgmeaning.models.text import shortened

# A text with fewer characters for each token of the limit is taken to fit: hardly any has more than one token for two.
SURELY_FITTING = 2
# Characters per token of the limit, from what long words have to what rare signs have.
DENSITIES = (4.5, 3.5, 2.5, 1.5, 0.75, 0.25)


def may_be_too_long(text: str | None, max_tokens: int | None) -> bool:
    """Whether an engine may refuse it."""
    return max_tokens is not None and len(text or "") > SURELY_FITTING * max_tokens


def shorter(text: str, max_tokens: int | None, taken: int = 0) -> Iterator[str]:
    """The text as far as a model could read it, then less and less; `taken` tokens are another's."""
    whole = shortened(text, max_tokens)
    yield whole
    for density in DENSITIES:
        characters = int(density * max((max_tokens or 0) - taken, 0))
        if characters < len(whole):
            yield whole[:characters]
