"""Connections of the sidecar: settings on which keys and plans depend are pinned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import psycopg

Connection = psycopg.Connection[Any]
T = TypeVar("T")

# A key's jsonb must come out the same in every session; and statements by key must keep using the index, also where a
# plan was cached while the table was still empty.
OPTIONS = " ".join(
    f"-c {name}={value}"
    for name, value in {
        "timezone": "UTC",
        "datestyle": "ISO,YMD",
        "intervalstyle": "postgres",
        "bytea_output": "hex",
        "extra_float_digits": "1",
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
        "enable_seqscan": "off",
        "default_transaction_isolation": r"read\ committed",
        "default_transaction_read_only": "off",
        "statement_timeout": "0",
        "idle_in_transaction_session_timeout": "60s",
        "search_path": "pg_catalog",
    }.items()
)

# What a lost lock race or a restarting server costs is a retry, not a row.
RETRIED = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)


def connect(dsn: str, name: str) -> Connection:
    """An autocommit connection with pinned settings; `name` shows in pg_stat_activity."""
    options = psycopg.conninfo.conninfo_to_dict(dsn).get("options") or ""
    # prepare_threshold: a generic plan, cached while the queue was empty, would walk the queue for every claim.
    return psycopg.connect(
        dsn, autocommit=True, prepare_threshold=None, application_name=f"pgmeaning {name}", options=f"{options} {OPTIONS}".strip(),
        keepalives_idle=30, tcp_user_timeout=30_000,
    )  # fmt: skip


def retrying(work: Callable[[], T], times: int = 5) -> T:
    """Run a whole transaction again when it lost a deadlock or a serialization race."""
    for _ in range(times - 1):
        try:
            return work()
        except RETRIED:
            continue
    return work()
