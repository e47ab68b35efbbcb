"""Run the integrations' tests with the other versions of their frameworks, each in a virtual environment of its own.

    python -m tests.frameworks [--only "django 6"]

The environments are kept in the cache folder ($XDG_CACHE_HOME or ~/.cache). Django 6 takes Python 3.12 or newer.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ["pytest>=8.3", "pytest-timeout", "hypothesis", "psycopg-pool", "asyncpg", "greenlet", "psutil"]


@dataclass(frozen=True)
class Framework:
    """One version: what is installed, which Python it takes at least, and the tests."""

    name: str
    requirements: tuple[str, ...]
    tests: tuple[str, ...]
    python: tuple[int, int] = (3, 11)


ALCHEMY = ("tests/integration/test_sqlalchemy.py", "tests/integration/test_alembic.py")
FRAMEWORKS = [
    Framework("sqlalchemy 2.0", ("sqlalchemy>=2.0,<2.1", "alembic"), ALCHEMY),
    Framework("sqlalchemy 2.1", ("sqlalchemy>=2.1,<2.2", "alembic"), ALCHEMY),
    Framework("django 5.2", ("django>=5.2,<5.3",), ("tests/integration/test_django.py",)),
    Framework("django 6", ("django>=6.0,<7",), ("tests/integration/test_django.py",), (3, 12)),
]


def python_of(least: tuple[int, int], given: Sequence[str]) -> str | None:
    """A Python of this version or newer: of those named, this one, or one on the path."""
    for name in (*given, sys.executable, "python3.12", "python3.13", "python3.14"):
        found = shutil.which(name)
        if found is None:
            continue
        asked = [found, "-c", f"import sys; sys.exit(sys.version_info < {least})"]
        if subprocess.run(asked, check=False).returncode == 0:
            return found
    return None


def environment(framework: Framework, python: str) -> Path:
    """The Python of an environment with the framework and this package."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pgmeaning-frameworks"
    place = cache / framework.name.replace(" ", "-")
    if not (place / "ready").exists():
        subprocess.run([python, "-m", "venv", "--clear", str(place)], check=True)
        pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--editable", f"{ROOT}[server]", *TOOLS, *framework.requirements], check=True)
        (place / "ready").touch()
    return place / "bin" / "python"


def main() -> int:
    """Print a row a version; the exit status says whether all tests passed with all of them."""
    parser = argparse.ArgumentParser(description="Run the integrations' tests with other versions of frameworks.")
    parser.add_argument("--only", nargs="+", metavar="FRAMEWORK", help='such as "django 6"')
    parser.add_argument("--python", nargs="+", default=[], help="Pythons to look at first")
    asked = parser.parse_args()
    rows, failed = ["| framework | result |", "|---|---|"], False
    for framework in FRAMEWORKS:
        if asked.only and framework.name not in asked.only:
            continue
        python = python_of(framework.python, asked.python)
        if python is None:
            rows.append(f"| {framework.name} | not run: no Python {'.'.join(map(str, framework.python))} |")
            failed = True
            continue
        print(f"== {framework.name}", flush=True)
        command = [str(environment(framework, python)), "-m", "pytest", "-q", *framework.tests]
        variables = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT)))}
        done = subprocess.run(command, cwd=ROOT, env=variables, check=False)
        failed = failed or done.returncode != 0
        rows.append(f"| {framework.name} | {'passed' if done.returncode == 0 else 'failed'} |")
    print("\n".join(rows))
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
