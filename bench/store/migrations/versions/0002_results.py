"""Manifests of captures, pruned captures, details of a run, and microcode transitions."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Older runs have no manifest, are not pruned, and say no details."""
    for name, value in (("manifest", ""), ("pruned", ""), ("details", "{}")):
        op.add_column("runs", sa.Column(name, sa.String, nullable=False, server_default=value))
    op.create_table(
        "microcode",
        sa.Column("run", sa.Integer, sa.ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("boot", sa.Integer, nullable=False),
        sa.Column("processor", sa.Integer, nullable=False),
        sa.Column("flags", sa.String, nullable=False),
        sa.Column("before", sa.String, nullable=False),
        sa.Column("offered", sa.String),
        sa.Column("after", sa.String),
        sa.Column("outcome", sa.String, nullable=False),
    )
