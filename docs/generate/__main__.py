"""Write the reference pages beside this package; the SQL's from a database of an embedded server of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path

import psycopg

from docs.generate import cli, errors, python, settings, sql
from pgmeaning.database import migrate
from pgmeaning.embedded_server.server import EmbeddedServer

FOLDER = Path(__file__).resolve().parents[1]


def main() -> None:
    """Write all five."""
    for name, page in (("cli", cli), ("errors", errors), ("python", python), ("settings", settings)):
        (FOLDER / f"{name}.md").write_text(page.page())
    with tempfile.TemporaryDirectory(prefix="pgmeaning-docs-") as folder:
        Path(folder).chmod(0o755)  # as root the server runs as another account, which must get through
        with EmbeddedServer(Path(folder) / "data") as server:
            migrate.upgrade(server.dsn)
            with psycopg.connect(server.dsn) as connection:
                (FOLDER / "sql.md").write_text(sql.page(connection))


if __name__ == "__main__":
    main()
