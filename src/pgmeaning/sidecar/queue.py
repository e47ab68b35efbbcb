"""The inbox and the queue: fold, claim, finish, fail, extend, release, wait.

Leases and generations stay in here: a claim counts only as long as its row's generation is the one that was claimed, so
the result of an embedding that began before a change never wins.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection, retrying
from pgmeaning.settings import Settings
from pgmeaning.types import Claim

CHANNEL = "pgmeaning"
FOLD_LIMIT = 10_000
# After folding met a row that somebody's transaction holds, for how long it looks before it takes.
WARY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Folded:
    """What one pass over the inbox found: rows taken; notes among them."""

    taken: int = 0
    notes: int = 0


class Queue:
    """The queue as one sidecar sees it, over one connection; not for several threads at once."""

    def __init__(self, connection: Connection, sidecar: UUID, settings: Settings) -> None:
        self._connection = connection
        self._sidecar = sidecar
        self._settings = settings
        self._lease = timedelta(seconds=settings.lease)
        self._wary_until = 0.0

    def fold(self, limit: int = FOLD_LIMIT) -> Folded:
        """Move so much of the inbox into the queue; nothing when another sidecar is at it."""
        if time.monotonic() < self._wary_until:
            return retrying(lambda: self._fold("queue/fold_portion_unlocked", limit))
        try:
            return retrying(lambda: self._fold("queue/fold_portion", limit))
        except psycopg.errors.LockNotAvailable:
            self._wary_until = time.monotonic() + WARY_SECONDS
            return Folded()

    def _fold(self, portion: str, limit: int) -> Folded:
        """In one statement, so in one round trip."""
        statement = sql.composed("queue/fold", {"portion": sql.query(portion)}, parameters=False)
        row = self._connection.execute(statement, {"limit": limit}, prepare=True).fetchone()
        return Folded(*row[:2]) if row else Folded()

    def claim(self, model: str, collections: Sequence[int], limit: int) -> list[Claim]:
        """Take up to `limit` rows for a lease, the most urgent first; no suspects of a crash."""
        return self._claim(model, collections, limit, suspects=False)

    def claim_suspect(self, model: str, collections: Sequence[int]) -> list[Claim]:
        """Take one row that may have killed its sidecars."""
        return self._claim(model, collections, 1, suspects=True)

    def _claim(self, model: str, collections: Sequence[int], limit: int, *, suspects: bool) -> list[Claim]:
        arguments = {
            "model": model, "collections": list(collections), "limit": limit, "suspects": suspects,
            "attempts": self._settings.attempts, "suspect": max(1, min(2, self._settings.attempts - 1)),
            "lease": self._lease, "sidecar": self._sidecar,
        }  # fmt: skip
        rows = self._connection.execute(sql.query("queue/claim"), arguments, prepare=True).fetchall()
        return [Claim(*row) for row in rows]

    def finish(self, claims: Sequence[Claim]) -> list[int]:
        """End claims of one (collection, model), in the caller's transaction: the places of those that stood."""
        rows = self._connection.execute(
            sql.query("queue/finish"), {**_identity(claims), "sidecar": self._sidecar}, prepare=True
        ).fetchall()
        ended = {generation for (generation,) in rows}
        return [place for place, claim in enumerate(claims) if claim.generation in ended]

    def fail(self, claims: Sequence[Claim], errors: Sequence[str]) -> None:
        """Record a failed attempt each: another one later, or none after the last."""
        settings = self._settings
        limits = {"backoff": settings.backoff, "backoff_max": settings.backoff_max, "attempts": settings.attempts}
        named = [(claim, error) for claim, error in zip(claims, errors, strict=True)]
        for group in _grouped(claim for claim, _ in named):
            texts = {id(claim): error.replace("\0", "")[:2000] for claim, error in named}
            self._run(
                "queue/fail", group, errors=[texts[id(claim)] for claim in group], sidecar=self._sidecar, **limits
            )

    def extend(self, claims: Iterable[Claim]) -> None:
        """Lengthen the leases of claims that this sidecar still works on."""
        for group in _grouped(claims):
            self._run("queue/extend", group, lease=self._lease, sidecar=self._sidecar)

    def release(self, claims: Iterable[Claim]) -> None:
        """Hand claims back untried, for anybody to take at once."""
        for group in _grouped(claims):
            self._run("queue/release", group, sidecar=self._sidecar)

    def release_all(self) -> None:
        """Hand back all that this sidecar has claimed, as far as the database knows."""
        retrying(lambda: self._connection.execute(sql.query("queue/release_all"), {"sidecar": self._sidecar}))

    def _run(self, name: str, claims: Sequence[Claim], **more: Any) -> None:
        retrying(lambda: self._connection.execute(sql.query(name), {**_identity(claims), **more}))

    def fail_crashed(self) -> None:
        """Leave rows as failed whose sidecar died with them, time after time."""
        self._connection.execute(sql.query("queue/fail_crashed"), {"attempts": self._settings.attempts})

    def backlog(self, collections: Sequence[int], models: Sequence[str]) -> tuple[int, int]:
        """(owed, failed) rows of these collections and models; an unfinished scan counts as owed."""
        arguments = {"collections": list(collections), "models": list(models)}
        row = self._connection.execute(sql.query("queue/backlog"), arguments).fetchone()
        return row or (0, 0)

    def wait(self, seconds: float) -> bool:
        """Sleep until a trigger wakes us or time is up; returns whether it was a wake-up."""
        return any(True for _ in self._connection.notifies(timeout=seconds, stop_after=1))

    def stay_awake(self) -> bool:
        """Take the lock that tells triggers to send no NOTIFY; False while another sidecar has it."""
        return bool(_scalar(self._connection, "try_drain_lock"))

    def fall_asleep(self) -> None:
        """Let that lock go; look once more before sleeping, since a trigger may have seen it held."""
        _scalar(self._connection, "drop_drain_lock")

    def wake_others(self) -> None:
        """Wake the other sidecars: there is more than this one claims at once."""
        _scalar(self._connection, "wake_others")


def _scalar(connection: Connection, name: str) -> object:
    row = connection.execute(sql.query(name)).fetchone()
    return row[0] if row else None


def _identity(claims: Sequence[Claim]) -> dict[str, Any]:
    return {
        "collection_id": claims[0].collection_id if claims else None,
        "model": claims[0].model if claims else None,
        "keys": [claim.key for claim in claims],
        "generations": [claim.generation for claim in claims],
    }


def _grouped(claims: Iterable[Claim]) -> Iterator[list[Claim]]:
    groups: dict[tuple[int, str], list[Claim]] = defaultdict(list)
    for claim in claims:
        groups[claim.collection_id, claim.model].append(claim)
    yield from groups.values()
