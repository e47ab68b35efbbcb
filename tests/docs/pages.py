"""Runs the code blocks of a Markdown page, in their order, as its reader would.

SQL goes through psql, shell blocks through bash with their exports kept, Python blocks share one namespace. A `text`
block that directly follows one of them is the end of what it prints. Two kinds of comments do not show on the page:
`<!-- not-run: REASON -->` before a block, and `<!-- set-up` with SQL in it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from pgmeaning.client.client import Client
from pgmeaning.embedded_server.install import find_install

REASONS = {
    "needs a table of yours",
    "installs software",
    "needs a GPU",
    "needs an engine",
    "needs Docker",
    "needs PgBouncer",
    "runs for minutes",
    "needs servers of these names",
}
RUN = ("sql", "python", "sh")
NOT_RUN = re.compile(r"<!-- not-run: (.+?) -->")
SET_UP = re.compile(r"<!-- set-up\n(.*)-->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One block of code: where it begins, what it is to print (None: not shown), why it is not run (None: it is)."""

    language: str
    text: str
    line: int
    printed: str | None = None
    reason: str | None = None


def blocks(markdown: str) -> list[Block]:
    """The blocks of a page, those of its invisible set-up too."""
    found: list[Block] = []
    reason: str | None = None
    adjacent = False  # whether the block before stands directly before this one
    for token in MarkdownIt().parse(markdown):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "fence" and token.info == "text" and adjacent and found[-1].language in RUN:
            found[-1] = replace(found[-1], printed=token.content)
        elif token.type == "fence":
            found.append(Block(token.info, token.content, line, reason=reason))
        elif token.type == "html_block" and (hidden := SET_UP.search(token.content)):
            found.append(Block("sql", hidden[1], line))
        marked = NOT_RUN.search(token.content) if token.type == "html_block" else None
        reason = marked[1] if marked else None
        adjacent = token.type == "fence" and token.info in RUN
    return found


class Reader:
    """Runs one page's blocks against a database; what they started is stopped by `close`."""

    def __init__(self, page: str, dsn: str, folder: Path) -> None:
        self._page = page
        self._folder = folder
        self._exports = folder / "exports"
        self._names: dict[str, Any] = {"__name__": "__main__"}
        self._groups: list[int] = []
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = os.environ | {
            "PGMEANING_DSN": dsn,
            "PATH": path,
            "XDG_DATA_HOME": str(folder),
            "COLUMNS": "110",
        }

    def run(self, block: Block) -> None:
        """Run a block; fails with its place where it fails or prints something else than the page shows."""
        try:
            printed = {"sql": self._sql, "python": self._python, "sh": self._shell}[block.language](block)
        except Exception as error:
            raise AssertionError(f"{self._page}:{block.line} does not run: {error}") from error
        if block.printed is not None:
            shown, last = _lines(block.printed), _lines(printed)[-len(_lines(block.printed)) :]
            assert last == shown, f"{self._page}:{block.line} prints\n{printed}"

    def _sql(self, block: Block) -> str:
        command = [_psql(), "-X", "-q", "-v", "ON_ERROR_STOP=1", self._environment["PGMEANING_DSN"]]
        return self._finished(command, block.text)

    def _shell(self, block: Block) -> str:
        text = f"set -e\n{block.text}\nexport -p > {self._exports}\n"
        printed = self._finished(["bash", "-s"], text)
        self._read_exports()
        return printed

    def _finished(self, command: list[str], text: str) -> str:
        """What a command prints; into a file, since what it leaves running would hold a pipe open."""
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, text=True, cwd=self._folder,
                env=self._environment, start_new_session=True,
            )  # fmt: skip
            self._groups.append(process.pid)
            process.communicate(text, timeout=240)
            output.seek(0)
            printed = output.read()
        if process.returncode:
            raise RuntimeError(printed)
        return printed

    def _read_exports(self) -> None:
        for name, value in re.findall(r'^declare -x (PG\w+)="(.*)"$', self._exports.read_text(), re.MULTILINE):
            self._environment[name] = value

    def _python(self, block: Block) -> str:
        printed = io.StringIO()
        with _environment(self._environment), contextlib.chdir(self._folder), contextlib.redirect_stdout(printed):
            code = compile(block.text, f"{self._page}:{block.line}", "exec", dont_inherit=True)  # not our __future__
            exec(code, self._names)  # noqa: S102  # our own pages
        return printed.getvalue()

    def close(self) -> None:
        """Close what the page's Python opened, and end what its shell left running, the server last."""
        for value in self._names.values():
            if isinstance(value, Client):
                value.close()
        for group in self._groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGTERM)
        subprocess.run(
            [sys.executable, "-m", "pgmeaning", "server", "stop"],
            env=self._environment,
            check=True,
            capture_output=True,
        )


def _lines(text: str) -> list[str]:
    """Without what does not show: spaces at the ends of lines, and empty lines at the end."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _psql() -> str:
    """The embedded server's psql, else the system's."""
    packaged = find_install().program("psql")
    return str(packaged) if packaged.is_file() else shutil.which("psql") or "psql"


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
