"""What is going on, at one look: collections and their rate, failures, sidecars, models, indexes, swaps."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pgmeaning import json_values
from pgmeaning.client.client import Client
from pgmeaning.errors import PgmeaningError

SECONDS = 60.0  # over so long a rate is measured: sidecars say only now and then what they have done
FAILURES = 50

Row = dict[str, Any]


class Rates:
    """Rows a second of each collection, from how many were done at the looks of the last minute."""

    def __init__(self) -> None:
        self._seen: defaultdict[str, deque[tuple[float, int]]] = defaultdict(deque)
        self._guard = threading.Lock()

    def saw(self, done: Mapping[str, int], now: float) -> dict[str, float | None]:
        """Note a look at it; the rates by now, None where one cannot be told yet."""
        with self._guard:
            for name in self._seen.keys() - done.keys():
                del self._seen[name]
            return {name: self._rate(name, count, now) for name, count in done.items()}

    def _rate(self, name: str, count: int, now: float) -> float | None:
        seen = self._seen[name]
        if seen and count < seen[-1][1]:  # another collection of that name
            seen.clear()
        seen.append((now, count))
        while len(seen) > 2 and now - seen[1][0] >= SECONDS:
            seen.popleft()
        since, before = seen[0]
        return (count - before) / (now - since) if now > since else None


def look(client: Client, rates: Rates) -> dict[str, Any]:
    """All that the page shows. Raises DatabaseError."""
    done = dict(client._statements.execute("console/done", {}).fetchall())
    speed = rates.saw(done, time.monotonic())
    failures = _allowed(client)
    return {
        "collections": [_collection(row, speed.get(row["collection"])) for row in client.status()],
        "failures": None if failures is None else [{**row, "key": json_values.dumps(row["key"])} for row in failures],
        "sidecars": [{**row, "silent": _age(row["heartbeat_at"])} for row in client.sidecars()],
        "models": [row for row in client.models() if row["collections"] or row["status"] == "default"],
        "indexes": [{**row, "plan": _plan(client, row["collection"])} for row in client.index_report()],
        "swaps": client.swaps(),
        "at": datetime.now().astimezone().strftime("%H:%M:%S"),
    }


def _allowed(client: Client) -> list[Row] | None:
    """The rows that failed; None: this role may not see them."""
    try:
        with client.connection.transaction():
            return client.failures()[:FAILURES]
    except PgmeaningError as error:
        if error.sqlstate != "42501":
            raise
        return None


def _collection(row: Row, rate: float | None) -> Row:
    left = row["owed"] / rate if rate and row["owed"] else None
    return {
        **row, "lag": _age(row["oldest_owed"]), "rate": rate, "left": None if left is None else told(left),
        "done": 1.0 if not row["source_rows"] else max(0.0, 1 - row["owed"] / max(row["source_rows"], row["owed"])),
    }  # fmt: skip


def _plan(client: Client, collection: str) -> Row | None:
    """The index that would be built; None where that cannot be told, as of a dropped table."""
    try:
        with client.connection.transaction():
            return next(iter(client.plan_index(collection)), None)
    except PgmeaningError:
        return None


def _age(moment: datetime | str | None) -> str | None:
    if not isinstance(moment, datetime):
        return None
    return told(max(0.0, (datetime.now(UTC) - moment).total_seconds()))


def told(seconds: float) -> str:
    """A duration for people, to two places: 3 min 20 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = zip((days, hours, minutes, rest), ("d", "h", "min", "s"), strict=True)
    shown = [f"{count} {unit}" for count, unit in parts if count]
    return " ".join(shown[:2]) or "0 s"
