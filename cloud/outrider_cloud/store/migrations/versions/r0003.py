"""Leases by boot and run time; dead letters with all that is needed to take them in again."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002_access"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A lease of before is of no boot, and so is void: its input is taken up by whoever comes first."""
    op.add_column("inputs", sa.Column("boot", sa.String(length=64), nullable=False, server_default=""))
    op.execute("ALTER TABLE dead_letters RENAME COLUMN head TO payload")
    op.add_column("dead_letters", sa.Column("content_type", sa.String(length=64), nullable=False, server_default=""))
    op.execute(
        "UPDATE dead_letters SET content_type = 'application/msgpack'"
    )  # what is not known to be another was taken for it
    op.add_column("dead_letters", sa.Column("correlation", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    """Gives up what the columns held."""
    op.drop_column("dead_letters", "correlation")
    op.drop_column("dead_letters", "content_type")
    op.execute("ALTER TABLE dead_letters RENAME COLUMN payload TO head")
    op.drop_column("inputs", "boot")
