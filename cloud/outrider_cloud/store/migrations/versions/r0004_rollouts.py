"""Rollouts, their devices, the newest order to each device, and emergency stops."""

import sqlalchemy as sa
from alembic import op

revision = "0004_rollouts"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the four tables, and room for what devices report beside their slots."""
    op.add_column("devices", sa.Column("report", sa.JSON(), nullable=False, server_default="{}"))
    op.create_table(
        "rollouts",
        sa.Column("rollout", sa.String(length=64), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("asks", sa.JSON(), nullable=False),
        sa.Column("tasks", sa.JSON(), nullable=False),
        sa.Column("automatic", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("progress", sa.JSON(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("changed_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("rollout"),
    )
    op.create_table(
        "rollout_members",
        sa.Column("rollout", sa.String(length=64), nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("member", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.rollout"]),
        sa.PrimaryKeyConstraint("rollout", "device"),
    )
    op.create_index("rollout_members_by_device", "rollout_members", ["device"], unique=False)
    op.create_table(
        "orders",
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("rollout", sa.String(length=64), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("issued_ms", sa.BigInteger(), nullable=False),
        sa.Column("sent", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("device"),
    )
    op.create_index(
        "orders_unsent",
        "orders",
        ["device"],
        unique=False,
        sqlite_where=sa.text("NOT sent"),
        postgresql_where=sa.text("NOT sent"),
    )
    op.create_table(
        "stops",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("stop", sa.JSON(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("sent", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )


def downgrade() -> None:
    """Drops them: no rollout that is under way is known any more."""
    for name in ("stops", "orders", "rollout_members", "rollouts"):
        op.drop_table(name)
    op.drop_column("devices", "report")
