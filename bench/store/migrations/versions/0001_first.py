"""Runs, scenarios and findings: the first schema, made by benches that had no Alembic yet."""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Nothing: every store has it."""
