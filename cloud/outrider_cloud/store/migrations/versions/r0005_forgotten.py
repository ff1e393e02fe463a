"""Marks of what was forgotten, which keep it from being written again."""

import sqlalchemy as sa
from alembic import op

revision = "0005_forgotten"
down_revision = "0004_rollouts"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table."""
    op.create_table(
        "forgotten",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("salt", sa.String(length=32), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index("forgotten_by_hash", "forgotten", ["hash"], unique=False)


def downgrade() -> None:
    """Drops it: what a worker still holds in memory of whom was forgotten may be written again."""
    op.drop_table("forgotten")
