"""What models behind endpoints have used of their limits: kept in the database, so that all sidecars share them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta

import psycopg
import structlog

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection
from pgmeaning.errors import EndpointDown, OverLimit
from pgmeaning.models.options import LIMITS, Serving

log = structlog.get_logger()

WHAT = {name: name.replace("_per_", " a ") for name in LIMITS}


class Spending:
    """Of one model. `connect`: a connection for each look-up, of which there is one for each call of the model."""

    def __init__(self, model: str, how: Serving, connect: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._model = model
        self._limits: dict[str, int] = {name: getattr(how, name) for name in LIMITS}
        self._connect = connect
        self._turn = threading.Lock()

    def __call__(self, requests: int, tokens: int, *, waits: bool) -> None:
        """Note what is about to be sent; raises OverLimit, and notes nothing, if that must wait.

        EndpointDown if that cannot be looked up just now: then no row is to blame. Queries go on all the same.
        """
        arguments = {"model": self._model, "requests": requests, "tokens": tokens, "waits": waits, **self._limits}
        try:
            with self._turn, self._connect() as connection:
                found = connection.execute(sql.query("maintenance/spend"), arguments).fetchone()
        except psycopg.Error as error:
            log.warning("limits of a model cannot be looked up", model=self._model, error=str(error).strip())
            if waits:
                raise EndpointDown(f"model {self._model!r}: its limits cannot be looked up: {error}") from error
            return
        if found is not None and found[0] is not None:
            raise self._over(*found)

    def _over(self, seconds: float, limit: str) -> OverLimit:
        until = datetime.now(UTC) + timedelta(seconds=seconds)
        used = f"its limit of {self._limits[limit]:,} {WHAT[limit]} is used up"
        return OverLimit(
            f"model {self._model!r} waits until {until:%H:%M:%S} UTC: {used}", seconds=seconds,
            hint=f"its option {limit}: pgmeaning model set {self._model} --option {limit}=...",
        )  # fmt: skip
