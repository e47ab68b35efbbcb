"""Indexes on vector tables, questions to rerankers, full-text search."""

from __future__ import annotations

from alembic import op

from pgmeaning.database import sql_files as sql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    sql.run_migration(op.get_bind(), "0002_search.up")


def downgrade() -> None:
    sql.run_migration(op.get_bind(), "0002_search.down")
