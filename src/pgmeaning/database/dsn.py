"""The database's address: refused, without a word of it, where a typing error would have it printed.

libpq quotes what it cannot read: of `postgresql://me:secret/db`, which lacks its host, `invalid port number: "secret"`.
"""

from __future__ import annotations

import re

import psycopg
from psycopg import conninfo

from pgmeaning.errors import DatabaseError

URI = re.compile(r"postgres(?:ql)?://", re.IGNORECASE)
# What is none of a name's characters, but stands between a name and a password where somebody took it for a colon.
SEPARATORS = re.compile(r"[;,|=&!\s]")
# A password within a host, user or database name.
PASSWORD = re.compile(r"pass(?:word|wd)?\s*=|pwd\s*=", re.IGNORECASE)
SECRET = frozenset({"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"})
NUMBERS = frozenset({
    "connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
})  # fmt: skip
HINT = (
    "write postgresql://user@host:port/database, with @ / : % and the like in a password percent-encoded (%40 for @), "
    "or host=... port=... dbname=... user=... password='...', with quotes around a value that has spaces"
)


def checked(dsn: str) -> str:
    """The DSN, if libpq can read it and nothing of it looks misplaced; raises DatabaseError that quotes none of it."""
    try:
        found = {name: str(value) for name, value in conninfo.conninfo_to_dict(dsn).items()}
    except (psycopg.Error, ValueError) as error:  # ValueError: broken Unicode, a null byte
        raise _unreadable(_reason(str(error))) from None
    if not all(part.strip().isdigit() for part in found.get("port", "").split(",") if part):
        raise _unreadable("its port is not a number")
    if not all(found.get(name, "0").strip().lstrip("-").isdigit() for name in NUMBERS):
        raise _unreadable("one of its times is not a number")
    if any(PASSWORD.search(value) for name, value in found.items() if name not in SECRET):
        raise _unreadable("a password stands within another value")
    if "\0" in dsn:  # libpq reads as far as that
        raise _unreadable("it has a null byte in it")
    if URI.match(dsn):
        _check_uri(dsn, found)
    return dsn


def _check_uri(dsn: str, found: dict[str, str]) -> None:
    address = re.split(r"[?]", dsn[dsn.index("//") + 2 :])[0]
    if re.search(r"\s", dsn.strip()):
        raise _unreadable("it has spaces in it")
    if address.count("@") > 1 or ("@" in address and "@" in found.get("host", "") + found.get("dbname", "")):
        raise _unreadable("an @ stands where none can be")
    user, at, _ = address.partition("@")
    if at and ":" not in user and SEPARATORS.search(user):
        raise _unreadable("no colon stands between user and password")
    if found.get("host", "").count(":") and "[" not in address:
        raise _unreadable("its host has a colon")


def _reason(said: str) -> str:
    """What libpq found, without the words that it quotes."""
    for known, reason in {
        'missing "="': "a value has spaces and no quotes, or an = is missing",
        "unterminated quoted string": "a quote is not closed",
        "invalid connection option": "it has an option that libpq does not know",
        "invalid URI query parameter": "it has an option that libpq does not know",
        "percent-encoded": "a % in it does not begin a percent-encoded character",
        "key/value separator": "what follows its ? is not name=value",
        "IPv6": "an IPv6 address in it is not well-formed",
        "]": "an IPv6 address in it is not well-formed",
    }.items():
        if known in said:
            return reason
    return "libpq cannot read it"


def _unreadable(reason: str) -> DatabaseError:
    return DatabaseError(f"the DSN is not one: {reason}", hint=HINT)
