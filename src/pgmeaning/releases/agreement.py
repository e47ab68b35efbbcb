"""A release with all that it means: its models' definitions, fingerprints and probes; and the file that carries it.

The file is JSON with a SHA-256 over its canonical form (sorted keys, no blanks, ASCII), so damage is noticed. It says
who signed the release off; whoever must be sure of that signs the file with a tool of their own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from pgmeaning.errors import InputError
from pgmeaning.models.probes import Maker, Probe, Probed
from pgmeaning.models.registry import templates
from pgmeaning.types import Model
from pgmeaning.version import __version__

FORMAT = "pgmeaning release 1"
# Options that say how to talk to an endpoint and may be secret; they change no fingerprint, and are left out.
SECRET = ("extra_body", "api_key_env")


@dataclass(frozen=True, slots=True)
class Entry:
    """A model as one database, or a file, has it."""

    model: Model
    fingerprint: str
    probes: Sequence[Probed] = ()


@dataclass(frozen=True, slots=True)
class Agreement:
    """`release`: name, embedder, reranker, dimensions, signed_off_by, signed_off_at (ISO)."""

    release: Mapping[str, Any]
    entries: Mapping[str, Entry]


def write(agreement: Agreement, file: Path) -> None:
    """Write the file, or leave what is there."""
    document = as_document(agreement)
    handle, temporary = tempfile.mkstemp(dir=file.absolute().parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="ascii") as opened:
            json.dump(document, opened, indent=1, sort_keys=True)
            opened.write("\n")
        Path(temporary).chmod(0o644)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read(file: Path) -> Agreement:
    """The agreement in a file; raises InputError for a damaged one, or anything else."""
    try:
        document = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise _damaged(file, str(error)) from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(f"{file} is no release of this format", hint="pgmeaning release export writes one")
    if document.get("checksum") != checksum(document):
        raise _damaged(file, "its checksum does not fit")
    try:
        return _agreement(document)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(file, f"{type(error).__name__}: {error}") from None


def _damaged(file: Path, why: str) -> InputError:
    return InputError(f"{file} is damaged: {why}", hint="have it exported again: pgmeaning release export")


def checksum(document: Mapping[str, Any]) -> str:
    """Of everything but itself."""
    rest = {key: value for key, value in document.items() if key != "checksum"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return "sha256:" + hashlib.sha256(canonical.encode("ascii")).hexdigest()


def as_document(agreement: Agreement) -> dict[str, Any]:
    """The agreement in JSON's types, with its checksum."""
    document: dict[str, Any] = {
        "format": FORMAT, "made_by": f"pgmeaning {__version__}", "release": dict(agreement.release),
        "models": [_entry_document(entry, agreement.entries) for entry in agreement.entries.values()],
    }  # fmt: skip
    return {**document, "checksum": checksum(document)}


def _entry_document(entry: Entry, known: Mapping[str, Entry]) -> dict[str, Any]:
    model = entry.model
    public = replace(
        model, status="supported", reranker=model.reranker if model.reranker in known else None,
        options={key: value for key, value in model.options.items() if key not in SECRET},
    )  # fmt: skip
    return {
        "definition": asdict(public), "fingerprint": entry.fingerprint,
        "template_text": templates().get(model.template or "", model.template),
        "probes": [_probe_document(probed) for probed in entry.probes],
    }  # fmt: skip


def _probe_document(probed: Probed) -> dict[str, Any]:
    vector = base64.b64encode(probed.vector.astype("<f4").tobytes()).decode("ascii")
    return {
        "number": probed.probe.number, "input": dict(probed.probe.input), "as_query": probed.probe.as_query,
        "float32": vector, "maker": asdict(probed.maker),
    }  # fmt: skip


def _agreement(document: Mapping[str, Any]) -> Agreement:
    entries = [_entry(entry) for entry in document["models"]]
    release = document["release"]
    named = {name: release[name] for name in ("name", "embedder", "reranker", "dimensions")}
    signed = {name: release.get(name) for name in ("signed_off_by", "signed_off_at")}
    return Agreement({**named, **signed}, {entry.model.name: entry for entry in entries})


def _entry(document: Mapping[str, Any]) -> Entry:
    known = {field.name for field in fields(Model)}
    definition = {key: value for key, value in document["definition"].items() if key in known}
    model = Model(**{**definition, "modalities": tuple(definition["modalities"])})
    return Entry(model, document["fingerprint"], [_probed(probe) for probe in document["probes"]])


def _probed(document: Mapping[str, Any]) -> Probed:
    vector = np.frombuffer(base64.b64decode(document["float32"], validate=True), "<f4").astype(np.float32)
    probe = Probe(document["number"], document["input"], document["as_query"])
    return Probed(probe, vector, Maker(**document["maker"]))
