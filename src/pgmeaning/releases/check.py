"""Whether two databases may compare their vectors: model by model, and why not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pgmeaning.models.probes import Probed, cosine, shown, tolerance
from pgmeaning.models.registry import SERVING_OPTIONS, fingerprint, templates
from pgmeaning.releases.agreement import Agreement, Entry
from pgmeaning.types import Model

EQUAL, COMPATIBLE, DIFFERENT, MISSING = "equal", "compatible", "different", "missing"

# Where a checkpoint is and what runs it: they change no vector if the probes say so.
NEUTRAL = frozenset({"location", "revision", "backend"})
# These never do.
FREE = frozenset({"name", "status", "min_dimensions", "reranker"})


@dataclass(frozen=True, slots=True)
class Finding:
    """What is to be said of one model, or of the release itself."""

    subject: str
    verdict: str
    why: str

    @property
    def passed(self) -> bool:
        """Whether vectors may be compared."""
        return self.verdict in (EQUAL, COMPATIBLE)


def check(wanted: Agreement, here: Agreement, chosen: float | None = None) -> list[Finding]:
    """Each model of `wanted` as `here` has it; then the release, if `here` has one of that name."""
    found = [_model(entry, here, chosen) for entry in wanted.entries.values()]
    return [*found, _release(wanted.release, here.release)] if here.release else found


def _release(wanted: Mapping[str, Any], here: Mapping[str, Any]) -> Finding:
    names = [name for name in ("embedder", "reranker", "dimensions") if wanted[name] != here[name]]
    why = ", ".join(f"{name}: {wanted[name]} there, {here[name]} here" for name in names)
    return Finding(f"release {wanted['name']}", DIFFERENT if names else EQUAL, why)


def _model(wanted: Entry, here: Agreement, chosen: float | None) -> Finding:
    name = wanted.model.name
    if name not in here.entries:
        twins = [other for other, entry in here.entries.items() if entry.fingerprint == wanted.fingerprint]
        return Finding(name, MISSING, f"the same model is {twins[0]} here" if twins else "there is no such model here")
    return Finding(name, *_verdict(wanted, here.entries[name], chosen))


def _verdict(wanted: Entry, here: Entry, chosen: float | None) -> tuple[str, str]:
    differing = _differences(wanted.model, here.model)
    telling = [name for name in differing if name not in NEUTRAL]
    if telling:
        return DIFFERENT, "; ".join(f"{name}: {differing[name]}" for name in telling)
    if fingerprint(wanted.model) != wanted.fingerprint:
        return DIFFERENT, "its fingerprint is not what this version makes of its definition, as with another template"
    compared, worst = _probes(wanted.probes, here.probes, chosen)
    if worst:
        return DIFFERENT, worst
    if wanted.fingerprint == here.fingerprint:
        return EQUAL, compared or "no probes on both sides to compare"
    said = "; ".join(f"{name}: {value}" for name, value in differing.items())
    if not compared:
        return DIFFERENT, f"{said}; there are no probes on both sides to tell whether that matters"
    return COMPATIBLE, f"{said}; {compared}"


def _differences(wanted: Model, here: Model) -> dict[str, str]:
    """What differs in two definitions, but for what never changes a vector."""
    there, mine = _fields(wanted), _fields(here)
    return {name: f"{there[name]!r} there, {mine[name]!r} here" for name in there if there[name] != mine[name]}


def _fields(model: Model) -> dict[str, Any]:
    said = {name: value for name, value in asdict(model).items() if name not in FREE}
    options = dict(model.options)
    if model.backend == "http":
        options = {name: value for name, value in options.items() if name not in SERVING_OPTIONS}
    template = templates().get(model.template or "", model.template)
    modalities = sorted(set(model.modalities))
    return {**said, "options": json.loads(json.dumps(options)), "template": template, "modalities": modalities}


def _probes(wanted: Sequence[Probed], here: Sequence[Probed], chosen: float | None) -> tuple[str, str]:
    """(what was compared, what is wrong), each empty if there is nothing."""
    mine = {_key(probed): probed for probed in here}
    pairs = [(probed, mine[_key(probed)]) for probed in wanted if _key(probed) in mine]
    if not pairs:
        return "", ""
    cosines = [(cosine(a.vector, b.vector), a, b) for a, b in pairs]
    least = min(cosines, key=lambda found: found[0])
    failed = [
        f"{shown(a.probe)} has cosine {near:.6f}"
        for near, a, b in sorted(cosines, key=lambda found: found[0])
        if near < (tolerance(a.maker, b.maker) if chosen is None else chosen)
    ]
    said = f"{len(failed)} of {len(pairs)} probes differ: {failed[0]}" if failed else ""
    return f"{len(pairs)} probes, the least cosine {least[0]:.6f}", said


def _key(probed: Probed) -> str:
    return json.dumps([dict(probed.probe.input), probed.probe.as_query], sort_keys=True)
