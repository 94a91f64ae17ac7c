"""Alembic's entry: it runs inside the transaction that the store has begun, and commits nothing itself."""

from alembic import context

from bench.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
