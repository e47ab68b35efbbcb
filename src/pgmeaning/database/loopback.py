"""The loopback, by which SQL functions ask a sidecar: where this server, or its primary, can be reached from itself."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import psycopg

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection
from pgmeaning.settings import LOCAL, host_list

# A standby replays what its primary did within moments.
REPLAY_TRIES = 2
REPLAY_SECONDS = 0.5


def ensure_loopback(connection: Connection, hosts: str = "") -> str | None:
    """Make the loopback that embed() uses to ask a sidecar fit this database; returns why it cannot, or None.

    `hosts` is PGMEANING_LOOPBACK_HOSTS: a list that does not lead to this server is not used. Empty: the list that is
    there is kept, unless it leads to another server. Whoever does not own the installation only looks whether it works.
    """
    if connection.execute(sql.query("owns_installation")).fetchone() != (True,):
        problem, _ = _tested(connection)
        return problem and f"{problem} (pgmeaning migrate, as the owner of the schema pgmeaning, makes it)"
    problem = _settle(connection, keep=hosts != LOCAL)
    wanted = host_list(hosts)
    if not wanted:
        return problem
    refused = _refused(connection, wanted)
    for _ in range(REPLAY_TRIES):  # a standby of the list may not have the role yet
        if refused is None:
            break
        time.sleep(REPLAY_SECONDS)
        refused = _refused(connection, wanted)
    return refused and f"PGMEANING_LOOPBACK_HOSTS={hosts} is not used: {refused}"


def _settle(connection: Connection, *, keep: bool) -> str | None:
    kept = connection.execute(sql.query("migrate/kept_hosts")).fetchone() if keep else None
    if kept:
        problem, elsewhere = _first_that_works(connection, [kept])
        if not elsewhere:
            return problem
    return _first_that_works(connection, connection.execute(sql.query("migrate/loopback_hosts")).fetchall())[0]


def _first_that_works(connection: Connection, places: Sequence[tuple[str, str | None]]) -> tuple[str | None, bool]:
    """Settle on one of these places; returns why none will do, and whether the last is another server."""
    problem: str | None = None
    elsewhere = False
    # A new role only if the present one cannot log in: databases made from one template may share it.
    for new_role, (host, ports) in itertools.product((False, True), places):
        # Committed before the test: another connection must see the new role.
        with connection.transaction():
            problem = _made(connection, host, ports, new_role)
        if problem is None:
            with connection.transaction():
                problem, elsewhere = _tested(connection)
        if problem is None or (elsewhere and ports):
            break
    return problem, elsewhere


def _refused(connection: Connection, place: tuple[str, str]) -> str | None:
    """Make this list the loopback's, if it leads to this server; returns why not, or None."""
    with connection.transaction() as attempt:
        problem = _made(connection, *place, False)
        if problem is None:
            problem, _ = _tested(connection)
        if problem is not None:
            raise psycopg.Rollback(attempt)
    return problem


def _made(connection: Connection, host: str, ports: str | None, new_role: bool) -> str | None:
    """(Re)make it for this place; returns why not, or None."""
    return (connection.execute(sql.query("make_loopback"), (host, ports, new_role)).fetchone() or (None,))[0]


def _tested(connection: Connection) -> tuple[str | None, bool]:
    """Why it does not answer, or None; and whether it leads to another server."""
    return connection.execute(sql.query("test_loopback")).fetchone() or (None, False)
