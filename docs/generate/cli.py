"""The command line: what every command says of itself with --help."""

from __future__ import annotations

import re

from typer.testing import CliRunner

from pgmeaning.cli.main import app

HEAD = """# The command line

<!-- Written by `make docs`. -->

Every command as its own `--help` describes it. Results go to stdout and logs to stderr. `--json` prints one JSON
document; types that JSON lacks (dates, numerics, NaN) come as text. Exit status: 0, 1 (the work failed), 2 (wrong
usage).
"""


def page() -> str:
    """The page, from the commands of this installation."""
    return HEAD + "".join(_sections(()))


def _sections(command: tuple[str, ...]) -> list[str]:
    """A command's section, then those of its sub-commands."""
    text = _help_of(command)
    title = " ".join(("pgmeaning", *command))
    own = f"\n## `{title}`\n\n```text\n{text}\n```\n"
    return [own, *(section for name in _commands_in(text) for section in _sections((*command, name)))]


def _help_of(command: tuple[str, ...]) -> str:
    done = CliRunner().invoke(app, [*command, "--help"], prog_name="pgmeaning", terminal_width=78)
    return "\n".join(line.rstrip() for line in done.output.strip().splitlines())


def _commands_in(text: str) -> list[str]:
    """The names below `Commands:`, one a line."""
    return re.findall(r"^  (\w[\w-]*)", text.partition("\nCommands:\n")[2], re.MULTILINE)
