"""The database's address: refused, without a word of it, where a typing error would have it printed.

libpq quotes what it cannot read: of `postgresql://me:secret/db`, which lacks its host, `invalid port number: "secret"`.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, urlencode

import psycopg
from psycopg import conninfo

from pgmeaning.errors import DatabaseError

# As frameworks write it: the driver's name behind a plus.
WITH_DRIVER = re.compile(r"(postgres(?:ql)?)\+\w+(?=://)", re.IGNORECASE)
# What only asyncpg's or SQLAlchemy's own URLs have; libpq would refuse it.
NOT_LIBPQ = frozenset({
    "prepared_statement_cache_size", "statement_cache_size", "prepared_statement_name_func", "command_timeout",
    "async_fallback", "server_settings",
})  # fmt: skip
RENAMED = {"ssl": "sslmode", "timeout": "connect_timeout"}
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
    """The DSN as libpq takes it, if nothing of it looks misplaced; raises DatabaseError that quotes none of it.

    A driver's name, as in postgresql+asyncpg://, is left out, and so are options that only that driver has.
    """
    try:
        dsn = _without_driver(dsn) if WITH_DRIVER.match(dsn) else dsn
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


def _without_driver(url: str) -> str:
    """A URL of SQLAlchemy's as libpq reads it: other names of options, and several hosts in one."""
    address, mark, query = WITH_DRIVER.sub(r"\1", url, count=1).partition("?")
    given = parse_qsl(query, keep_blank_values=True)
    if mark and len(given) != query.count("&") + 1:
        raise _unreadable("what follows its ? is not name=value")
    options = [(RENAMED.get(name, name), value) for name, value in given if name not in NOT_LIBPQ]
    hosts = [value for name, value in options if name == "host"]
    if len(hosts) > 1:
        options = [(name, value) for name, value in options if name != "host"]
        places = [host.rpartition(":") if re.search(r":\d+$", host) else (host, "", "") for host in hosts]
        options += [("host", ",".join(place[0] for place in places)), ("port", ",".join(p[2] for p in places))]
    return address.replace(" ", "%20") + (f"?{urlencode(options, quote_via=quote)}" if options else "")


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
