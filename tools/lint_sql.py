"""Checks how sql/ is written, as ruff does for Python: long lines, blanks at their ends, tabs, the end of a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

LONGEST = 120
FOLDER = Path(__file__).resolve().parents[1] / "sql"


def complaints(path: Path) -> Iterator[str]:
    """What is wrong with a file, with the number of the line."""
    text = path.read_text()
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > LONGEST:
            yield f"{path}:{number}: {len(line)} characters; a line has at most {LONGEST}"
        if line != line.rstrip():
            yield f"{path}:{number}: blanks at the end of the line"
        if "\t" in line:
            yield f"{path}:{number}: a tab"
    if not text.endswith("\n") or text.endswith("\n\n"):
        yield f"{path}: a file ends with one newline"


def main() -> int:
    """Print all complaints; the exit status is 1 if there are any."""
    found = [complaint for path in sorted(FOLDER.rglob("*.sql")) for complaint in complaints(path)]
    print("\n".join(found) or "SQL: all checks passed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
