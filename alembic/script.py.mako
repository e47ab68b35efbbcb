"""${message}"""

from __future__ import annotations

from alembic import op

from pgmeaning import sql

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    sql.run_migration(op.get_bind(), "${up_revision}_name.up")


def downgrade() -> None:
    sql.run_migration(op.get_bind(), "${up_revision}_name.down")
