"""What all commands share: the database's address, output for people and for programs, errors, logs.

Nothing heavy is imported before a command needs it, so that `pgmeaning --help` answers at once.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Collection as Names
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from pgmeaning.errors import PgmeaningError, SettingsError
from pgmeaning.json_values import plain
from pgmeaning.secret_values import read_secret, secret
from pgmeaning.tables import printable, table

if TYPE_CHECKING:
    from rich.console import Console

    from pgmeaning.client.client import Client
    from pgmeaning.settings import Settings

Dsn = Annotated[
    str | None,
    typer.Option(
        "--dsn",
        metavar="DSN",
        help="libpq connection string or URI; default: PGMEANING_DSN, PGMEANING_DSN_FILE, then libpq's PG* variables. "
        "Other users of the machine see it in its list of processes: put a password elsewhere.",
    ),
]
DsnFile = Annotated[
    str | None, typer.Option("--dsn-file", metavar="FILE", help="File that holds the connection string or URI.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Collection = Annotated[str, typer.Argument(metavar="COLLECTION", help="Name of the collection.", show_default=False)]
Columns = Annotated[
    list[str] | None, typer.Option("--column", metavar="COLUMN", help="Column to embed; may be repeated.")
]
Template = Annotated[
    str | None, typer.Option("--template", metavar="TEMPLATE", help="Text to embed, such as '{title}: {body}'.")
]


def json_object(text: str | None, option: str) -> dict[str, Any] | None:
    """The object that an option gives; the database checks what is in it."""
    try:
        found = None if text is None else json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint=option) from error
    if found is not None and not isinstance(found, dict):
        raise typer.BadParameter('not an object such as {"method": "tokens"}', param_hint=option)
    return found


# Where there is no terminal, and COLUMNS does not say how wide its reader's is.
WIDTH = 120


@dataclass
class Common:
    """What was said before the command's name."""

    dsn: str | None = None
    dsn_file: str | None = None


common = Common()


def address(dsn: str | None) -> str:
    """The first of: the command's --dsn, --dsn and --dsn-file before the command, PGMEANING_DSN, PGMEANING_DSN_FILE.

    Empty: libpq's own variables.
    """
    if found := dsn or common.dsn:
        return found
    return read_secret("--dsn-file", common.dsn_file) if common.dsn_file else secret("PGMEANING_DSN")


def connected(dsn: str | None) -> Client:
    """A client; what libraries log goes to stderr."""
    configure_logging(None, "warning")
    from pgmeaning.client.connecting import connect

    return connect(address(dsn))


def settings() -> Settings:
    """Settings from PGMEANING_*, further DSNs from the files that *_DSN_FILE name; an error names the variable."""
    from pydantic import ValidationError

    from pgmeaning.settings import Settings

    try:
        chosen = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = f"PGMEANING_{'_'.join(str(part) for part in first['loc']).upper()}"
        raise SettingsError(f"{name} is invalid: {first['msg']}", hint=f"it is {first.get('input')!r}") from error
    dsns = [name for name in Settings.model_fields if name.endswith("_dsn")]
    return chosen.model_copy(update={name: secret(f"PGMEANING_{name.upper()}") for name in dsns})


# Output


def console() -> Console:
    """For stdout: as wide as the terminal, or as COLUMNS says, or a fixed width."""
    from rich.console import Console

    stdout = _stdout()
    known = stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal()
    return Console(file=stdout, width=None if known else WIDTH, highlight=False)


def print_json(document: object) -> None:
    """One JSON document: dates in ISO format, and whatever else JSON has no type for, as text."""
    stdout = _stdout()
    takes_all = (stdout.encoding or "").lower().replace("-", "").startswith("utf")
    typer.echo(json.dumps(plain(document), ensure_ascii=not takes_all, indent=2), file=stdout)


def _stdout() -> TextIO:
    """Raises OSError where the process was started without it."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "stdout is closed")
    return sys.stdout


def print_rows(
    rows: Sequence[Mapping[str, Any]], columns: Iterable[str], *, as_json: bool, nothing: str,
    keys: Names[str] = (), exact: Names[str] = (),
) -> None:  # fmt: skip
    """Rows as JSON, or some of their columns as a table."""
    if as_json:
        print_json(rows)
    elif rows:
        screen = console()
        screen.print(table(rows, columns, screen.width, keys=keys, exact=exact), soft_wrap=True)
    else:
        typer.echo(nothing, file=_stdout())


# Errors


def prepare_streams() -> None:
    """Write `?` for characters that stdout's encoding lacks instead of failing; replace a closed stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    if sys.stderr is None:  # print(file=None) would write logs into the results
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def abandon_output() -> None:
    """Discard what stdout could not take: the interpreter would try to write it again at exit, and complain."""
    if sys.stdout is not None:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def expected(error: BaseException) -> bool:
    """Whether one line is enough: our own errors, the system's, and the database driver's, if that is loaded."""
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
        hint = "give --dsn or --dsn-file, or set PGMEANING_DSN or PGMEANING_DSN_FILE"
    return message + (f": {detail}" if detail else "") + (f" ({hint})" if hint else "")


def _is_lost(error: BaseException) -> bool:
    """Whether the connection failed; the error may be ours, raised from the driver's."""
    cause = error.__cause__ if isinstance(error, PgmeaningError) else error
    return type(cause).__name__ == "OperationalError" and getattr(cause, "sqlstate", None) is None


# Logs


class StderrLogger:
    """Prints lines on the current stderr. Work goes on when nobody reads them any more."""

    def msg(self, line: str) -> None:
        """Print a line, if stderr takes it."""
        with suppress(OSError, ValueError):  # a broken pipe, a full disk; a closed file
            print(line, file=sys.stderr, flush=True)

    log = debug = info = warn = warning = error = exception = critical = fatal = msg


def configure_logging(form: str | None, level: str) -> None:
    """Structured logs to stderr: key=value on a terminal, else JSON lines, or as requested."""
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
