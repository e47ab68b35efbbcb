"""Every SQL, Python and shell block of the README and the docs runs, and prints what the page shows."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pgmeaning.models.base import load_embedder, load_reranker
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running
from tests.docs.pages import REASONS, RUN, Reader, blocks

ROOT = Path(__file__).resolve().parents[2]
EMBEDDER, RERANKER = "all-MiniLM-L6-v2", "all-MiniLM-L6-v2-late-interaction"
GENERATED = {"cli", "errors", "python", "settings", "sql"}
PAGES = [ROOT / "README.md", *sorted(page for page in ROOT.glob("docs/*.md") if page.stem not in GENERATED)]
RUNNABLE = [page for page in PAGES if any(b.language in RUN and b.reason is None for b in blocks(page.read_text()))]


@pytest.fixture
def database(dsn: str) -> str:
    """A migrated database whose default models are the small ones, as after the quick start."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for name in (EMBEDDER, RERANKER):
            connection.execute("SELECT pgmeaning.set_default_model(%s)", (name,))
    return dsn


@pytest.fixture(scope="module")
def libraries() -> None:
    """The small models' libraries, imported: that takes half a minute on a busy machine, and pages wait for less."""
    for load, name in ((load_embedder, EMBEDDER), (load_reranker, RERANKER)):
        load(name)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the account of an embedded server may enter, also where the tests run as root."""
    made = Path(tempfile.mkdtemp(prefix="pgmeaning-docs-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def sidecar(database: str) -> Iterator[Sidecar]:
    """A sidecar of the page's own, so that pages need not start one."""
    with running(Sidecar(database, Settings(maintenance=0.1))) as started:
        yield started


@pytest.mark.local_model
@pytest.mark.timeout(900)  # a page may start a server and a sidecar of its own, and load models in both
@pytest.mark.usefixtures("libraries", "sidecar")
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.stem)
def test_every_block_of_the_page_runs(page: Path, database: str, folder: Path) -> None:
    reader = Reader(page.name, database, folder)
    try:
        for block in blocks(page.read_text()):
            if block.language in RUN and block.reason is None:
                reader.run(block)
    finally:
        reader.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_block_that_is_not_run_says_why(page: Path) -> None:
    assert {block.reason for block in blocks(page.read_text()) if block.reason} <= REASONS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_names_its_language(page: Path) -> None:
    assert {block.language for block in blocks(page.read_text())} <= {*RUN, "text", "ini"}
