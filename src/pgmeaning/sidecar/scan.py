"""Backfill and reconcile are the same: a scan of the source in the order of its key, page by page.

It queues rows whose vector is missing or stale, and vectors without a row. A row whose content cannot be read is
queued, too, to fail alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import structlog

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection, retrying
from pgmeaning.sidecar.broken import check_visible
from pgmeaning.sidecar.in_flight import InFlight
from pgmeaning.sidecar.run import Run
from pgmeaning.sidecar.session import Session
from pgmeaning.sidecar.source import Source
from pgmeaning.types import Claim, Target

log = structlog.get_logger()

ORPHANS = 10_000
PAGE_MAX = 16_384
# The time until the next try where not even keys can be read; other collections go on.
UNREADABLE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Page:
    """One step of a scan: rows seen, rows queued, and those of them already claimed; `ended`: it was the last."""

    seen: int = 0
    queued: int = 0
    claims: tuple[Claim, ...] = ()
    ended: bool = False


def scan_page(
    connection: Connection, source: Source, target: Target, *, rows: int, claims: int, sidecar: UUID, lease: float,
    unseen: bool = False,
) -> Page | None:  # fmt: skip
    """Scan the next `rows` rows, claiming up to `claims` of those that are owed; None: another sidecar scans.

    `unseen`: queue them without looking at their contents, which cannot be hashed.
    """
    arguments = {
        "collection_id": target.collection_id, "model": target.model, "claims": claims, "sidecar": sidecar,
        "lease": timedelta(seconds=lease), "orphans": ORPHANS, "unseen": unseen,
    }  # fmt: skip
    return retrying(lambda: _scan_page(connection, source, target, rows, arguments))


def _scan_page(
    connection: Connection, source: Source, target: Target, rows: int, arguments: dict[str, Any]
) -> Page | None:
    with connection.transaction():
        taken = connection.execute(sql.query("scan/take_scan"), arguments).fetchone()
        if taken is None:
            return None
        cursor: str | None = taken[0]
        rows = rows if taken[1] is None else max(1, min(rows, taken[1]))
        keys, hashes = source.page(target, cursor, rows, hashed=not arguments["unseen"])
        parts = {**target.parts, "vector_in_page": _in_page(target, cursor, keys)}
        arguments = {**arguments, "cursor": cursor, "keys": keys, "hashes": hashes}
        row = connection.execute(sql.composed("scan/queue_page", parts), arguments).fetchone()
        queued, orphans, _, owed, generations = row or (0, 0, 0, [], [])
        if orphans or not keys:
            # Rows that are hidden look deleted: what was queued is rolled back, and the scan is not over.
            check_visible(connection, source, target)
        ended = not keys and orphans < ORPHANS
        if ended:
            connection.execute(sql.query("scan/end_scan"), arguments)
    claims = (
        Claim(target.collection_id, target.model, key, generation, 1)
        for key, generation in zip(owed, generations, strict=True)
    )
    return Page(len(keys), queued, tuple(claims), ended)


def _in_page(target: Target, cursor: str | None, keys: Sequence[str]) -> str:
    """Which vectors lie between the last page's end and this one's, as SQL."""
    behind_first = "true" if cursor is None else target.parts["vector_after_first"]
    return f"{behind_first} AND NOT ({target.parts['vector_after_last']})" if keys else behind_first


class Scans:
    """The scans in progress, each at its own pace: pages grow while nothing in them is owed."""

    def __init__(self, run: Run, session: Session, in_flight: InFlight) -> None:
        self._run = run
        self._session = session
        self._in_flight = in_flight
        self._rows: dict[tuple[int, str], int] = {}  # in a target's next page

    def next_page(self, target: Target, limit: int) -> Page | None:
        """Scan on, claiming up to `limit` rows; None: there is nothing to scan right now."""
        place = target.collection_id, target.model
        rows = self._rows.get(place, limit)
        try:
            page = self._scan(target, rows=rows, claims=limit)
        except psycopg.Error as error:
            if self._session.errors.is_of_collection(target, error):
                return None
            return self._narrow_down(target, rows)
        if page is not None:
            grown = min(rows * 2, PAGE_MAX)
            self._rows[place] = min(grown, limit) if page.queued * 4 > page.seen else grown
            if page.ended:
                self._rows.pop(place, None)
                log.info("scan ended", collection=target.collection, model=target.model)
        return page

    def _scan(self, target: Target, *, rows: int, claims: int, unseen: bool = False) -> Page | None:
        return scan_page(
            self._session.connection, self._session.source, target, rows=rows, claims=claims, sidecar=self._run.id,
            lease=self._run.settings.lease, unseen=unseen,
        )  # fmt: skip

    def _narrow_down(self, target: Target, rows: int) -> Page | None:
        """Halve a page that cannot be read until the row that is to blame stands alone; then pass over that row."""
        place = target.collection_id, target.model
        self._rows[place] = max(1, rows // 2)
        if rows > 1:
            return Page()
        try:
            return self._scan(target, rows=1, claims=0, unseen=True)
        except psycopg.Error as error:
            if not self._session.errors.is_of_collection(target, error):
                self._cannot_scan(target, error)
            return None

    def _cannot_scan(self, target: Target, error: psycopg.Error) -> None:
        """Not even a key can be read: status says so, and the scan is tried again after a while."""
        problem = error.diag.message_primary or str(error)
        log.error("cannot scan", collection=target.collection, problem=problem)
        arguments = {
            "collection_id": target.collection_id, "model": target.model,
            "problem": f"its rows cannot be scanned: {problem}", "pause": timedelta(seconds=UNREADABLE_SECONDS),
        }  # fmt: skip
        self._session.connection.execute(sql.query("scan/set_scan_problem"), arguments)
        self._session.registry.refresh(self._session.connection, now=True)
