"""The reference pages are what the code says of itself; `make docs` writes them anew."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from docs.generate import cli, errors, python, settings, sql
from tests.types import Connection

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("module", [cli, errors, python, settings], ids=lambda module: module.__name__)
def test_the_page_is_what_the_code_says(module: ModuleType) -> None:
    name = module.__name__.rpartition(".")[2]
    assert (DOCS / f"{name}.md").read_text() == module.page(), "run: make docs"


def test_the_sql_reference_is_what_the_database_says(db: Connection) -> None:
    assert (DOCS / "sql.md").read_text() == sql.page(db), "run: make docs"


def test_every_public_routine_and_view_has_a_comment(db: Connection) -> None:
    assert "\nNone\n" not in sql.page(db)


def test_the_errors_page_knows_every_sqlstate() -> None:
    assert set(errors.MEANINGS) == errors.codes_in_sql()


def test_every_setting_is_described() -> None:
    assert "None |" not in settings.page()
