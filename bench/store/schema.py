"""The store's tables, and how a store of an older schema becomes one of this.

Migrations are Alembic's, in `migrations/versions/`. A new store is made from the tables below at once; a test holds
that a migrated store and a new one are alike. The table `schema` repeats the version in plain sight, so that a bench
older than Alembic's part refuses a newer store in clear words too.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Boolean, Column, Float, ForeignKey, Integer, MetaData, String, Table

SCHEMA_VERSION = 2

metadata = MetaData()
schema = Table("schema", metadata, Column("version", Integer, nullable=False))
runs = Table(
    "runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("started", String, nullable=False),
    Column("machine", String, nullable=False, index=True),
    Column("model", String, nullable=False, index=True),
    # Unsigned numbers are hexadecimal text: SQLite's integers end at 2^63 - 1.
    Column("signature", String, nullable=False),
    Column("image", String, nullable=False),
    Column("image_sha256", String, nullable=False),
    Column("virtual", Boolean, nullable=False),
    Column("verdict", String, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("capture", String, nullable=False),
    # Since version 2:
    Column("manifest", String, nullable=False, server_default=""),
    Column("pruned", String, nullable=False, server_default=""),
    Column("details", String, nullable=False, server_default="{}"),
)
scenarios = Table(
    "scenarios",
    metadata,
    Column("run", ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("scenario", String, nullable=False),
    Column("verdict", String, nullable=False),
    Column("windows", Integer, nullable=False),
    Column("predicted", Integer, nullable=False),
    Column("replayed", Integer, nullable=False),
    Column("resets", Integer, nullable=False),
    Column("digests", Integer, nullable=False),
    Column("reason", String, nullable=False),
)
findings = Table(
    "findings",
    metadata,
    Column("run", Integer, primary_key=True),
    Column("scenario", Integer, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("component", String, nullable=False),
    Column("summary", String, nullable=False),
    Column("window", Integer),
    Column("event", Integer),
    Column("step", Integer),
    Column("field", String, nullable=False),
    Column("expected", String),
    Column("observed", String),
    Column("why", String, nullable=False),
    Column("witness", String, nullable=False),
    sa.ForeignKeyConstraint(["run", "scenario"], ["scenarios.run", "scenarios.position"], ondelete="CASCADE"),
)
# Since version 2. What each boot of a run did to the microcode of each processor.
microcode = Table(
    "microcode",
    metadata,
    Column("run", ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("boot", Integer, nullable=False),
    Column("processor", Integer, nullable=False),
    Column("flags", String, nullable=False),
    Column("before", String, nullable=False),
    Column("offered", String),
    Column("after", String),
    Column("outcome", String, nullable=False),
)
alembic_version = Table("alembic_version", metadata, Column("version_num", String(32), primary_key=True))


def revision(version: int) -> str:
    """Alembic's name of a schema version."""
    return f"{version:04d}"


def make(connection: sa.Connection) -> None:
    """Make all tables of the present version, unless another bench has been faster."""
    if sa.inspect(connection).has_table(schema.name):
        return
    metadata.create_all(connection)
    connection.execute(sa.insert(schema).values(version=SCHEMA_VERSION))
    connection.execute(sa.insert(alembic_version).values(version_num=revision(SCHEMA_VERSION)))


def version_of(connection: sa.Connection) -> int | None:
    """The version of the store, or None if it has no tables yet."""
    if not sa.inspect(connection).has_table(schema.name):
        return None
    return int(connection.execute(sa.select(schema.c.version)).scalar_one())


def migrate(connection: sa.Connection) -> None:
    """Bring an older store to the present version, inside the caller's transaction."""
    from alembic import command
    from alembic.config import Config

    old = version_of(connection)
    if old is None or old >= SCHEMA_VERSION:  # Another bench has been faster.
        return
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    if not sa.inspect(connection).has_table(alembic_version.name):
        command.stamp(config, revision(old))
    command.upgrade(config, "head")
    connection.execute(sa.update(schema).values(version=SCHEMA_VERSION))
