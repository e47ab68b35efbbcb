"""Looks for everything that keeps pgmeaning from working as it should, and mends what can be mended without harm."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import psycopg

from pgmeaning.database import migrate
from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import check_direct
from pgmeaning.database.connection import connect as connect_directly
from pgmeaning.database.loopback import ensure_loopback
from pgmeaning.database.vector_version import vector_advice
from pgmeaning.errors import DatabaseError, PgmeaningError

# Two machines' clocks may differ by so much: leases go by the database's alone, certificates do not.
CLOCK_SECONDS = 30.0
# A transaction that is open for longer holds VACUUM back.
LONGEST_TRANSACTION = timedelta(hours=1)
DUE = "pgmeaning migrate"
LOOKS = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong: its kind, which thing, and what to do. `fix` mends it and can do no harm; None: nothing does.

    `fixed`: what became of that, where it was tried.
    """

    kind: str
    thing: str
    problem: str
    remedy: str
    fix: str | None = None
    fixed: str | None = None


def examine(connection: psycopg.Connection[Any], dsn: str, *, max_lag: float = 60) -> list[Finding]:
    """Everything that is wrong, in the order in which it is best mended; empty: all is well.

    `max_lag`: seconds that a change may wait. Raises DatabaseError where nothing can be looked at.
    """
    found = list(_of_schema(connection))
    if any(each.kind == "schema" and each.fix is None for each in found):
        return found  # nothing else can be asked of another version's schema
    of_address = (_of_pooler(dsn), _of_settings(dsn))
    for look in (_of_extension, *of_address, _of_loopback, _of_server, _of_clock, _of_collections):
        found += _looked(look, connection)
    return found + list(_of_lag(connection, max_lag))


def mend(connection: psycopg.Connection[Any], dsn: str, found: Sequence[Finding]) -> list[Finding]:
    """Do what is safe about each finding; returns them with what became of it."""
    done = [each if each.fix is None else replace(each, fixed=_mended(connection, dsn, each.fix)) for each in found]
    for _ in range(LOOKS):  # what one look mends, the next one takes note of
        drifted = [each.fix for each in _looked(_of_collections, connection) if each.kind == "drift" and each.fix]
        for fix in drifted if any(each.fix for each in found) else ():
            _mended(connection, dsn, fix)
    return done


def _mended(connection: psycopg.Connection[Any], dsn: str, fix: str) -> str:
    try:
        if fix == DUE:
            migrate.upgrade(dsn)
        elif fix == "loopback":
            problem = ensure_loopback(connection)
            return f"not mended: {problem}" if problem else "mended: the loopback was made again"
        else:
            connection.execute(fix.encode())
    except (psycopg.Error, PgmeaningError) as error:
        return f"not mended: {str(error).strip().splitlines()[0]}"
    return f"mended: {fix}"


Look = Callable[[psycopg.Connection[Any]], Iterator[Finding]]


def _looked(look: Look, connection: psycopg.Connection[Any]) -> list[Finding]:
    """What this role may not look at, or what is too broken to be looked at, is a finding, too."""
    try:
        return list(look(connection))
    except psycopg.Error as error:
        remedy = "look as the owner of the schema pgmeaning, or a superuser"
        return [Finding("doctor", look.__name__.removeprefix("_of_"), str(error).strip().split("\n")[0], remedy)]


def _of_schema(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    try:
        state = migrate.known_state(connection)
    except DatabaseError as error:
        yield Finding("schema", "pgmeaning", error.args[0], error.hint or DUE)
        return
    if state.revision != state.head:
        yield Finding("schema", "pgmeaning", f"it is {state.revision or 'not installed'}, not {state.head}", DUE)
    elif state.missing:
        missing = ", ".join(state.missing[:5])
        yield Finding("schema", missing, "it is missing, or was altered", DUE, DUE)
    elif state.due:
        yield Finding("schema", "pgmeaning", "another build of this version made it", DUE)


def _of_extension(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    if (advice := vector_advice(connection)) is not None:
        yield Finding("extension", "vector", advice, "as it says")


def _of_pooler(dsn: str) -> Look:
    def _of_pooler(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
        try:
            check_direct(dsn)
        except DatabaseError as error:
            yield Finding("pooler", "this address", error.args[0], error.hint or "")

    return _of_pooler


def _of_settings(dsn: str) -> Look:
    def _of_settings(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
        with psycopg.connect(dsn, autocommit=True) as ordinary:  # ours pins them
            for row in ordinary.execute(sql.query("doctor/settings"), {}).fetchall():
                yield Finding(*row)

    return _of_settings


def _of_loopback(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    problem = (connection.execute(sql.query("test_loopback")).fetchone() or (None,))[0]
    if problem:
        yield Finding("loopback", "pgmeaning_loopback", str(problem), "a sidecar or migrate makes it", "loopback")


def _of_server(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    arguments = {"longest": LONGEST_TRANSACTION}
    for row in connection.execute(sql.query("doctor/server"), arguments).fetchall():
        yield Finding(*row)


def _of_clock(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    before = time.time()
    row = connection.execute(sql.query("doctor/clock")).fetchone() or (before,)
    ahead = row[0] - (before + time.time()) / 2
    if abs(ahead) > CLOCK_SECONDS:
        said = f"it is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
        yield Finding("clock", "the server's", said, "set both by NTP: tokens and certificates depend on them")


def _of_collections(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    for row in connection.execute(sql.query("doctor/collections"), {}).fetchall():
        yield Finding(*row)


def _of_lag(connection: psycopg.Connection[Any], max_lag: float) -> Iterator[Finding]:
    for name, owed, oldest in connection.execute(sql.query("doctor/lag"), {"max_lag": max_lag}).fetchall():
        yield Finding(
            "lag",
            name,
            f"{owed} rows are owed, the oldest for {oldest:.0f} s",
            "start more sidecars, or see their log",
        )


def directly(dsn: str) -> psycopg.Connection[Any]:
    """A connection to look with; raises DatabaseError where there is none."""
    try:
        return connect_directly(dsn, "doctor", statement_timeout="60s", enable_seqscan="on", enable_hashjoin="on")
    except psycopg.OperationalError as error:
        raise DatabaseError(f"cannot connect to the database: {str(error).strip()}") from error
