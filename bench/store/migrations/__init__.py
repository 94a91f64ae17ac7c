"""Migrations of the store, run by Alembic on the store's own connection (`bench.store.schema.migrate`)."""
