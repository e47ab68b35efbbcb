"""Backfill and reconcile are the same: a scan of the source in the order of its key, page by page.

It queues rows whose vector is missing or stale, and at its end vectors without a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import psycopg
import structlog

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection, retrying
from pgmeaning.sidecar.broken import check_visible
from pgmeaning.sidecar.in_flight import InFlight
from pgmeaning.sidecar.run import Run
from pgmeaning.sidecar.session import Session
from pgmeaning.types import Claim, Target

log = structlog.get_logger()

ORPHANS = 10_000
PAGE_MAX = 16_384
# After a page with a row that cannot be hashed, the time until the next try; other collections go on.
UNREADABLE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Page:
    """One step of a scan: rows seen, rows queued, and those of them already claimed; `ended`: it was the last."""

    seen: int = 0
    queued: int = 0
    claims: tuple[Claim, ...] = ()
    ended: bool = False


def scan_page(
    connection: Connection, target: Target, *, rows: int, claims: int, sidecar: UUID, lease: float
) -> Page | None:
    """Scan the next `rows` rows, claiming up to `claims` of those that are owed; None: another sidecar scans."""
    arguments = {
        "collection_id": target.collection_id, "model": target.model, "limit": rows, "claims": claims,
        "sidecar": sidecar, "lease": timedelta(seconds=lease),
    }  # fmt: skip
    return retrying(lambda: _scan_page(connection, target, arguments))


def _scan_page(connection: Connection, target: Target, arguments: dict[str, object]) -> Page | None:
    with connection.transaction():
        taken = connection.execute(sql.query("scan/take_scan"), arguments).fetchone()
        if taken is None:
            return None
        after = "true" if taken[0] is None else target.parts["source_after_cursor"]
        statement = sql.composed("scan/scan_page", {**target.parts, "after_cursor": after})
        row = connection.execute(statement, {**arguments, "cursor": taken[0]}).fetchone()
        seen, queued, keys, generations = row or (0, 0, [], [])
        ended = seen == 0 and _end(connection, target, arguments)
    claims = (
        Claim(target.collection_id, target.model, key, generation, 1)
        for key, generation in zip(keys, generations, strict=True)
    )
    return Page(seen, queued, tuple(claims), ended)


def _end(connection: Connection, target: Target, arguments: dict[str, object]) -> bool:
    """Queue vectors without a row, and end the scan once all are queued; returns whether it has ended."""
    statement = sql.composed("scan/queue_orphans", target.parts)
    queued, _ = connection.execute(statement, {**arguments, "limit": ORPHANS}).fetchone() or (0, 0)
    if queued:
        check_visible(connection, target)  # what was queued is rolled back if they are hidden
    if queued < ORPHANS:
        connection.execute(sql.query("scan/end_scan"), arguments)
    return bool(queued < ORPHANS)


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
        rows = max(self._rows.get(place, limit), limit)
        try:
            page = scan_page(
                self._session.connection, target, rows=rows, claims=limit,
                sidecar=self._run.id, lease=self._run.settings.lease,
            )  # fmt: skip
        except psycopg.Error as error:
            if not self._session.errors.is_of_collection(target, error):
                log.error("cannot scan", collection=target.collection, error=str(error).strip())
                self._in_flight.postpone(target, seconds=UNREADABLE_SECONDS)
            return None
        if page is not None:
            self._rows[place] = limit if page.queued * 4 > page.seen else min(rows * 2, PAGE_MAX)
            if page.ended:
                self._rows.pop(place, None)
                log.info("scan ended", collection=target.collection, model=target.model)
        return page
