"""The inbox and the queue: fold, claim, finish, fail, extend, release, wait.

Only this file knows leases and generations: a claim stands only while its row still has the generation that was
claimed, so a vector whose embedding began before a change never wins.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any
from uuid import UUID

import psycopg

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection, retrying
from pgmeaning.settings import Settings
from pgmeaning.types import Claim

FOLD_LIMIT = 10_000
# The inboxes, by whether they hold bulks, and the priority of what comes from them.
INBOXES = {False: ("pgmeaning.inbox", "2"), True: ("pgmeaning.bulk_inbox", "1")}
URGENT = 2
BULK = 128  # as pgmeaning._bulk_rows()
# After folding met a row that another transaction has locked, it checks for such locks for this long.
WARY_SECONDS = 10.0
# At this attempt at the latest, a row that may have crashed its sidecars stands alone.
ALONE = 3


@dataclass(frozen=True, slots=True)
class Folded:
    """What one pass over the inbox took: changes in all, and the notes among them."""

    taken: int = 0
    notes: int = 0


class Queue:
    """The queue as one sidecar sees it, over one connection; not for several threads at once."""

    def __init__(self, connection: Connection, sidecar: UUID, settings: Settings) -> None:
        self._connection = connection
        self._sidecar = sidecar
        self._settings = settings
        self._lease = timedelta(seconds=settings.lease)
        # Rows that fail run out of attempts in `fail`; one that dies with its sidecars is first to stand alone.
        self._crashes = max(settings.attempts, ALONE)
        self._wary_until = 0.0
        self._skipped_bulks = False
        self.lapsed = 0  # claims that `finish` found to be another sidecar's, or nobody's
        self.outrun = 0  # claims whose rows it found changed
        self.refused = 0  # rows whose vectors the database refused

    def fold(self, limit: int = FOLD_LIMIT) -> Folded:
        """Move up to `limit` changes into the queue, none while another sidecar does so.

        Single ones come first; few of them alone every other time, since they need not wait for a second look.
        """
        single = self._fold(False, limit)
        self._skipped_bulks = 0 < single.taken < BULK and not self._skipped_bulks
        if self._skipped_bulks:
            return single
        bulk = self._fold(True, limit)
        return Folded(single.taken + bulk.taken, single.notes + bulk.notes)

    def _fold(self, bulk: bool, limit: int) -> Folded:
        if time.monotonic() < self._wary_until:
            return retrying(lambda: self._fold_portion("queue/fold_portion_unlocked", bulk, limit))
        try:
            return retrying(lambda: self._fold_portion("queue/fold_portion", bulk, limit))
        except psycopg.errors.LockNotAvailable:
            self._wary_until = time.monotonic() + WARY_SECONDS
            return Folded()

    def _fold_portion(self, portion: str, bulk: bool, limit: int) -> Folded:
        """Fold in one statement, so in one round trip."""
        row = self._connection.execute(_folding(portion, bulk), {"limit": limit}, prepare=True).fetchone()
        return Folded(*row[:2]) if row else Folded()

    def claim(self, model: str, collections: Sequence[int], limit: int, priority: int = 0) -> list[Claim]:
        """Lease up to `limit` rows of this priority or more, the most urgent first; none that may crash a sidecar."""
        return self._claim("queue/pick", model, collections, limit=limit, priority=priority)

    def claim_suspect(self, model: str, collections: Sequence[int]) -> list[Claim]:
        """Lease one row that may have crashed its sidecars."""
        return self._claim("queue/pick_suspect", model, collections)

    def _claim(self, pick: str, model: str, collections: Sequence[int], **more: Any) -> list[Claim]:
        arguments = {
            "model": model, "collections": list(collections), "attempts": self._crashes, "lease": self._lease,
            "sidecar": self._sidecar, **more,
        }  # fmt: skip
        rows = self._connection.execute(_claiming(pick), arguments, prepare=True).fetchall()
        return [Claim(*row) for row in rows]

    def finish(self, claims: Sequence[Claim]) -> list[int]:
        """Finish claims of one (collection, model), in the caller's transaction; returns the positions that stood."""
        rows = self._connection.execute(
            sql.query("queue/finish"), {**_identity(claims), "sidecar": self._sidecar}, prepare=True
        ).fetchall()
        ended = {generation for (generation,) in rows}
        if len(ended) < len(claims):
            self._count_lost(claims, len(claims) - len(ended))
        return [place for place, claim in enumerate(claims) if claim.generation in ended]

    def _count_lost(self, claims: Sequence[Claim], number: int) -> None:
        row = self._connection.execute(sql.query("queue/lapsed"), _identity(claims), prepare=True).fetchone()
        lapsed = int(row[0]) if row else 0
        self.lapsed += lapsed
        self.outrun += number - lapsed

    def fail(self, claims: Sequence[Claim], errors: Sequence[str]) -> None:
        """Record a failed attempt for each; it is tried again later, unless this was the last attempt."""
        settings = self._settings
        limits = {"backoff": settings.backoff, "backoff_max": settings.backoff_max, "attempts": settings.attempts}
        named = [(claim, error) for claim, error in zip(claims, errors, strict=True)]
        for group in _grouped(claim for claim, _ in named):
            texts = {id(claim): error.replace("\0", "")[:2000] for claim, error in named}
            self._run(
                "queue/fail", group, errors=[texts[id(claim)] for claim in group], sidecar=self._sidecar, **limits
            )

    def give_up(self, claims: Sequence[Claim], error: str) -> None:
        """Hand back claims that a model did not return from; one that it was given alone fails for good."""
        for group in _grouped(claims):
            self._run("queue/give_up", group, sidecar=self._sidecar, error=error, alone=len(claims) == 1)

    def extend(self, claims: Iterable[Claim]) -> None:
        """Lengthen the leases of claims that this sidecar still works on."""
        for group in _grouped(claims):
            self._run("queue/extend", group, lease=self._lease, sidecar=self._sidecar)

    def release(self, claims: Iterable[Claim]) -> None:
        """Hand claims back untried; any sidecar may take them at once."""
        for group in _grouped(claims):
            self._run("queue/release", group, sidecar=self._sidecar)

    def release_all(self) -> None:
        """Hand back every claim that the database has for this sidecar."""
        retrying(lambda: self._connection.execute(sql.query("queue/release_all"), {"sidecar": self._sidecar}))

    def _run(self, name: str, claims: Sequence[Claim], **more: Any) -> None:
        retrying(lambda: self._connection.execute(sql.query(name), {**_identity(claims), **more}))

    def fail_crashed(self) -> None:
        """Mark rows as failed that their sidecar crashed on at every attempt."""
        self._connection.execute(sql.query("queue/fail_crashed"), {"attempts": self._crashes})

    def backlog(self, collections: Sequence[int], models: Sequence[str]) -> tuple[int, int]:
        """(owed, failed) rows of these collections and models; an unfinished scan counts as owed."""
        arguments = {"collections": list(collections), "models": list(models)}
        row = self._connection.execute(sql.query("queue/backlog"), arguments).fetchone()
        return row or (0, 0)

    def wait(self, seconds: float) -> bool:
        """Sleep until a trigger wakes us or the time is up; returns whether we were woken."""
        return any(True for _ in self._connection.notifies(timeout=seconds, stop_after=1))

    def show_state(self, state: str, seconds: float) -> bool:
        """Show triggers that a sidecar is "awake" or "asleep", for so long; False while another one shows it."""
        arguments = {"state": f"pgmeaning.{state}", "sidecar": self._sidecar, "seconds": seconds}
        return self._connection.execute(sql.query("show_state"), arguments, prepare=True).fetchone() == (True,)

    def hide_state(self, state: str) -> None:
        """Take that back, if this sidecar has shown it."""
        arguments = {"state": f"pgmeaning.{state}", "sidecar": self._sidecar}
        self._connection.execute(sql.query("hide_state"), arguments, prepare=True)

    def wake_others(self) -> None:
        """Wake the other sidecars: there is more work than this one claims at once."""
        _scalar(self._connection, "wake_others")


@cache
def _folding(portion: str, bulk: bool) -> bytes:
    inbox, priority = INBOXES[bulk]
    parts = {"portion": sql.query(portion).format(inbox=inbox), "inbox": inbox, "priority": priority}
    return sql.composed("queue/fold", parts, parameters=False).as_bytes()


@cache
def _claiming(pick: str) -> bytes:
    return sql.composed("queue/claim", {"picked": sql.query(pick)}, parameters=False).as_bytes()


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
