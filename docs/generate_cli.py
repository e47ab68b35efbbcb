"""Writes docs/cli.md: what every command says of itself with --help."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

HEAD = """# The command line

Written by `make docs` from the commands' own `--help`. Results go to stdout and logs to stderr; `--json` prints one
JSON document, with dates, numerics, NaN and whatever else JSON has no type for as text. Exit status: 0, 1 (the work
failed), 2 (wrong usage).
"""


def main() -> None:
    """Write the page beside this script."""
    page = HEAD + "".join(sections(()))
    (Path(__file__).parent / "cli.md").write_text(page)


def sections(command: tuple[str, ...]) -> list[str]:
    """A command's section, then those of its sub-commands."""
    text = help_of(command)
    title = " ".join(("pgmeaning", *command))
    own = f"\n## `{title}`\n\n```text\n{text}\n```\n"
    return [own, *(section for name in commands_in(text) for section in sections((*command, name)))]


def help_of(command: tuple[str, ...]) -> str:
    environment = os.environ | {"COLUMNS": "110", "NO_COLOR": "1"}
    arguments = [sys.executable, "-m", "pgmeaning", *command, "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment)
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def commands_in(text: str) -> list[str]:
    """The names below `Commands:`, one a line."""
    return re.findall(r"^  (\w[\w-]*)", text.partition("\nCommands:\n")[2], re.MULTILINE)


if __name__ == "__main__":
    main()
