"""Probes: inputs whose vectors tell whether a model still is what it was registered as.

Another engine, template, tokenizer, image preprocessing, quantisation or version of a library shows in the cosine
between the vectors that were stored and those that the same inputs give now.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Any, Protocol

import numpy as np

from pgmeaning.errors import EndpointDown, ModelDrifted, ModelError, TimedOut, describe
from pgmeaning.models.vectors import Vectors
from pgmeaning.types import Document, Model

# The lowest cosine. With the same code and 32 bits, only the order of sums differs; 16 bits differ by more.
EXACT = 0.99999
LOOSE = 0.999

# Characters from which on a text goes through the model alone.
LONG = 500

# Packages that may change a backend's vectors; their versions are kept beside them.
LIBRARIES = {
    "sentence_transformers": ("torch", "transformers", "tokenizers", "sentence-transformers"),
    "qwen3_vl": ("torch", "torchvision", "transformers", "tokenizers", "qwen-vl-utils", "pillow"),
}


class Embeds(Protocol):
    """What is probed."""

    def embed_documents(self, documents: Sequence[Document], /) -> Vectors:
        """float32 [n, d]."""

    def embed_queries(self, queries: Sequence[Document], /) -> Vectors:
        """float32 [n, d]."""


@dataclass(frozen=True, slots=True)
class Probe:
    """An input: {"text": ...} or {"image": {"width": ..., "height": ...}}."""

    number: int
    input: Mapping[str, Any]
    as_query: bool = False


@dataclass(frozen=True, slots=True)
class Maker:
    """What made vectors. `dtype`: None if that is not known, as behind an endpoint."""

    backend: str
    dtype: str | None = None
    device: str | None = None
    libraries: Mapping[str, str] = field(default_factory=dict)

    def changes(self, now: Maker) -> str:
        """What is different now, in a few words; empty if nothing is."""
        named = {"backend": (self.backend, now.backend), "dtype": (self.dtype, now.dtype)}
        named |= {"device": (self.device, now.device)}
        named |= {
            name: (self.libraries.get(name), now.libraries.get(name))
            for name in sorted({*self.libraries, *now.libraries})
        }
        return ", ".join(f"{name} {old}, now {new}" for name, (old, new) in named.items() if old != new)


@dataclass(frozen=True, slots=True)
class Probed:
    """A probe and its vector, float32 [d]."""

    probe: Probe
    vector: Vectors
    maker: Maker


@dataclass(frozen=True, slots=True)
class Comparison:
    """How near a probe's vector is to the stored one; `error`: why there is none now."""

    probe: Probe
    cosine: float
    tolerance: float
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether it is near enough."""
        return self.error is None and self.cosine >= self.tolerance


def probes_for(model: Model) -> list[Probe]:
    """The built-in probes of a model: three where vectors are made up, images where it takes them."""
    brief = model.backend == "synthetic"
    return [
        probe
        for probe, is_brief in _built_in()
        if (is_brief or not brief) and ("image" not in probe.input or "image" in model.modalities)
    ]


def maker_of(model: Model, embedder: object) -> Maker:
    """What makes the vectors of an embedder."""
    return Maker(
        model.backend, getattr(embedder, "dtype", None), getattr(embedder, "device_kind", None),
        _versions(model.backend),
    )  # fmt: skip


def probed(model: Model, embedder: Embeds) -> list[Probed]:
    """The vectors of a model's own probes. Those that it does not take, such as an empty text, are left out.

    Raises EndpointDown and TimedOut.
    """
    found, _ = embedded(embedder, probes_for(model))
    maker = maker_of(model, embedder)
    return [Probed(probe, vector, maker) for probe, vector in found]


def embedded(embedder: Embeds, probes: Sequence[Probe]) -> tuple[list[tuple[Probe, Vectors]], dict[int, str]]:
    """(probe, vector) of those that could be embedded, and by number why the others could not."""
    found: list[tuple[Probe, Vectors]] = []
    errors: dict[int, str] = {}
    for group in _together(probes):
        try:
            found += list(zip(group, _embed(embedder, group), strict=True))
        except (EndpointDown, TimedOut):
            raise
        except Exception:  # one of them may be to blame
            for probe in group:
                _embed_alone(embedder, probe, found, errors)
    return found, errors


def compared(stored: Sequence[Probed], model: Model, embedder: Embeds, chosen: float | None) -> list[Comparison]:
    """Embed the stored probes again. `chosen`: the tolerance; None: what suits their dtypes.

    Raises EndpointDown and TimedOut.
    """
    found, errors = embedded(embedder, [was.probe for was in stored])
    vectors = {probe.number: vector for probe, vector in found}
    maker = maker_of(model, embedder)
    return [
        Comparison(
            was.probe, cosine(was.vector, vectors.get(was.probe.number)),
            tolerance(was.maker, maker) if chosen is None else chosen, errors.get(was.probe.number),
        )
        for was in stored
    ]  # fmt: skip


def check(stored: Sequence[Probed], model: Model, embedder: Embeds, chosen: float | None = None) -> None:
    """Raise ModelDrifted if the model does not give the stored vectors any more; EndpointDown and TimedOut."""
    failed = [result for result in compared(stored, model, embedder, chosen) if not result.passed]
    if not failed:
        return
    worst = min(failed, key=lambda result: result.cosine)
    said = worst.error or f"cosine {worst.cosine:.6f}, at least {worst.tolerance:g} is asked"
    changes = stored[0].maker.changes(maker_of(model, embedder))
    raise ModelDrifted(
        f"model {model.name!r} does not give the vectors that it was registered with: {len(failed)} of {len(stored)} "
        f"probes differ, most {shown(worst.probe)} ({said})" + (f"; made with {changes}" if changes else ""),
        hint=f"nothing was embedded with it. Compare: pgmeaning model verify {model.name}. Restore what made its "
        "vectors, or add what runs now under another name",
    )


def tolerance(then: Maker, now: Maker) -> float:
    """The lowest cosine between vectors that two makers give of one model."""
    return EXACT if then.dtype == now.dtype == "float32" and then.backend == now.backend else LOOSE


def cosine(a: Vectors, b: Vectors | None) -> float:
    """Between two vectors, in double precision; 0 if there is none, or of another length."""
    if b is None or a.shape != b.shape:
        return 0.0
    x, y = a.astype(np.float64), b.astype(np.float64)
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def shown(probe: Probe) -> str:
    """A probe in a few words."""
    if "image" in probe.input:
        return f"an image of {probe.input['image']['width']} x {probe.input['image']['height']}"
    text = str(probe.input["text"])
    return f"{'the query ' if probe.as_query else ''}{text[:40]!r}{'...' if len(text) > 40 else ''}"


def document_of(probe: Probe) -> Document:
    """What is embedded for a probe. An image needs pillow, which every backend with images has."""
    if "image" not in probe.input:
        return Document(str(probe.input["text"]))
    from PIL import Image

    return Document(images=(Image.fromarray(_pixels(**probe.input["image"])),))


def _pixels(width: int, height: int) -> Any:
    """uint8 [height, width, 3]: gradients with edges, the same for ever, and small as a PNG."""
    x, y = np.arange(width, dtype=np.int64), np.arange(height, dtype=np.int64)[:, None]
    red, green = (x * 255 // width + 0 * y), (y * 255 // height + 0 * x)
    blue = (x // 16 + y // 16) % 2 * 160 + 40
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def _together(probes: Sequence[Probe]) -> Iterator[list[Probe]]:
    """Probes that may share a call; alone are a blank one, which not every model takes, and long ones, for padding."""
    plain = [probe for probe in probes if 0 < len(probe.input.get("text", "image")) < LONG]
    for as_query in (False, True):
        yield [probe for probe in plain if probe.as_query == as_query]
    yield from ([probe] for probe in probes if probe not in plain)


def _embed_alone(embedder: Embeds, probe: Probe, found: list[tuple[Probe, Vectors]], errors: dict[int, str]) -> None:
    try:
        found += [(probe, _embed(embedder, [probe])[0])]
    except (EndpointDown, TimedOut):
        raise
    except Exception as error:
        errors[probe.number] = describe(error)


def _embed(embedder: Embeds, probes: Sequence[Probe]) -> Vectors:
    if not probes:
        return np.empty((0, 0), np.float32)
    call = embedder.embed_queries if probes[0].as_query else embedder.embed_documents
    vectors = np.asarray(call([document_of(probe) for probe in probes]), np.float32)
    # Zeros and NaN have no cosine, so they are never kept.
    if not np.isfinite(vectors).all() or not np.any(vectors, axis=1).all():
        raise ModelError("the model returned no direction for a probe")
    return vectors


@cache
def _built_in() -> list[tuple[Probe, bool]]:
    """(probe, whether it is one of the brief ones)."""
    read = tomllib.loads(files("pgmeaning.models").joinpath("probes.toml").read_text("utf-8"))
    entries = [(kind, entry) for kind in ("text", "query", "image") for entry in read[kind]]
    return [
        (Probe(number, _input(kind, entry), kind == "query"), entry.get("brief", False))
        for number, (kind, entry) in enumerate(entries, start=1)
    ]


def _input(kind: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    if kind == "image":
        return {"image": {"width": entry["width"], "height": entry["height"]}}
    return {"text": entry["text"] * entry.get("repeat", 1)}


@cache
def _versions(backend: str) -> Mapping[str, str]:
    return {name: found for name in LIBRARIES.get(backend, ()) if (found := _version(name))}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
