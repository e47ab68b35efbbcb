"""What all commands share: the database's address, output for people and for programs, errors, logs.

Nothing heavy is imported before a command needs it: `pgmeaning --help` is to answer at once.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from pgmeaning.errors import PgmeaningError, SettingsError
from pgmeaning.json_values import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pgmeaning.client.client import Client
    from pgmeaning.settings import Settings

Dsn = Annotated[
    str | None,
    typer.Option(
        "--dsn", metavar="DSN", help="libpq connection string or URI; else PGMEANING_DSN, else libpq's PG* variables."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Collection = Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection's name.", show_default=False)]

# Where nobody looks at the width, tables get this one.
WIDTH = 120
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass
class Common:
    """What was said before the command's name."""

    dsn: str | None = None


common = Common()


def address(dsn: str | None) -> str:
    """The first of: the command's --dsn, the one before the command, PGMEANING_DSN; empty: libpq's own variables."""
    return dsn or common.dsn or os.environ.get("PGMEANING_DSN", "")


def connected(dsn: str | None) -> Client:
    """A client; what libraries log goes to stderr."""
    configure_logging(None, "warning")
    from pgmeaning.client.client import connect

    return connect(address(dsn))


def settings() -> Settings:
    """PGMEANING_* as settings; a wrong value is named with its variable."""
    from pydantic import ValidationError

    from pgmeaning.settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = f"PGMEANING_{'_'.join(str(part) for part in first['loc']).upper()}"
        raise SettingsError(f"{name} is wrong: {first['msg']}", hint=f"it is {first.get('input')!r}") from error


# Output


def console() -> Console:
    """For stdout: the terminal's width, or a fixed one where there is no terminal."""
    from rich.console import Console

    stdout = _stdout()
    return Console(file=stdout, width=None if stdout.isatty() else WIDTH, highlight=False)


def print_json(document: object) -> None:
    """One JSON document: dates in ISO format, whatever JSON has no type for as text."""
    stdout = _stdout()
    takes_all = (stdout.encoding or "").lower().replace("-", "").startswith("utf")
    typer.echo(json.dumps(plain(document), ensure_ascii=not takes_all, indent=2), file=stdout)


def _stdout() -> TextIO:
    """Raises OSError where the process was started without it."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "stdout is closed")
    return sys.stdout


def printable(text: str) -> str:
    """Text from a table without what a terminal would obey: control characters, but for line ends and tabs."""
    return CONTROL.sub("", text)


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Iterable[str], *, as_json: bool, nothing: str) -> None:
    """Rows as JSON, or some of their columns as a table."""
    if as_json:
        print_json(rows)
    elif rows:
        console().print(table(rows, columns))
    else:
        typer.echo(nothing, file=_stdout())


def table(rows: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> Table:
    """Some columns of rows, numbers to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    names = list(columns)
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in names:
        numeric = any(isinstance(row[name], int | float) and not isinstance(row[name], bool) for row in rows)
        drawn.add_column(Text(printable(name)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(shown(row[name])) for name in names))
    return drawn


def shown(value: Any) -> str:
    """A value as people read it."""
    return printable(_shown(value))


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    if hasattr(value, "isoformat"):
        return value.isoformat(sep=" ", timespec="seconds") if hasattr(value, "hour") else value.isoformat()  # type: ignore[no-any-return]
    return str(value)


# Errors


def prepare_streams() -> None:
    """Have stdout write `?` for a character that its encoding lacks, rather than fail; do without a closed stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    if sys.stderr is None:  # print(file=None) would write logs into the results
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def abandon_output() -> None:
    """Let go of what stdout could not take: the interpreter would try again at its end, and fail aloud."""
    if sys.stdout is not None:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def expected(error: BaseException) -> bool:
    """Whether it is told in one line: ours, the system's, and the database driver's if that was loaded at all."""
    driver = sys.modules.get("psycopg")
    ours = isinstance(error, PgmeaningError | OSError | UnicodeEncodeError)
    return ours or (driver is not None and isinstance(error, driver.Error))


def print_error(error: BaseException) -> None:
    """`error: what: which (what next)`, on stderr."""
    with suppress(OSError):
        typer.echo(f"error: {printable(_told(error))}", err=True)


def _told(error: BaseException) -> str:
    if isinstance(error, PgmeaningError):
        message, detail, hint = str(error.args[0]).strip(), error.detail, error.hint
    elif isinstance(error, OSError) and error.strerror:
        message, detail, hint = error.strerror, error.filename, None
    else:
        said = getattr(error, "diag", None)
        message = getattr(said, "message_primary", None) or str(error).strip() or type(error).__name__
        detail, hint = getattr(said, "message_detail", None), getattr(said, "message_hint", None)
    if hint is None and _is_lost(error):
        hint = "give --dsn, or set PGMEANING_DSN"
    return message + (f": {detail}" if detail else "") + (f" ({hint})" if hint else "")


def _is_lost(error: BaseException) -> bool:
    """Whether there is no connection; it may be ours, made of the driver's."""
    cause = error.__cause__ if isinstance(error, PgmeaningError) else error
    return type(cause).__name__ == "OperationalError" and getattr(cause, "sqlstate", None) is None


# Logs


class StderrLogger:
    """Prints lines on what stderr is just then. That nobody reads them any more is no reason to stop working."""

    def msg(self, line: str) -> None:
        """Print a line, or do without."""
        with suppress(OSError, ValueError):  # a broken pipe, a full disk; a closed file
            print(line, file=sys.stderr, flush=True)

    log = debug = info = warn = warning = error = exception = critical = fatal = msg


def configure_logging(form: str | None, level: str) -> None:
    """Structured logs to stderr: key=value for a terminal, JSON lines for anything else, or as asked for."""
    import logging

    import structlog

    plain = (form or ("text" if sys.stderr.isatty() else "json")) == "text"
    # Tracebacks without the values of variables: a key or a user's text may be among them.
    last: list[Any] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)]
        if plain
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    )
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso"), *last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: StderrLogger(),
        cache_logger_on_first_use=False,
    )
