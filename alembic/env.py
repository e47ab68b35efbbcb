"""Runs the migrations of sql/ through Alembic, on the connection that pgmeaning.migrate hands over."""

from __future__ import annotations

from alembic import context


def run() -> None:
    """Inside the caller's transaction: all of a migration or nothing."""
    connection = context.config.attributes.get("connection")
    if connection is None:
        raise SystemExit("run these migrations with: pgmeaning migrate")
    context.configure(connection=connection, version_table="alembic_version", version_table_schema="pgmeaning")
    context.run_migrations()


run()
