"""The tables of pgmeaning."""

from __future__ import annotations

from alembic import op

from pgmeaning.database import sql_files as sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    sql.run_migration(op.get_bind(), "0001_initial.up")


def downgrade() -> None:
    sql.run_migration(op.get_bind(), "0001_initial.down")
