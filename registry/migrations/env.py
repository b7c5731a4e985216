"""Runs the migrations on the connection that `registry.database.migrate` hands over."""

from alembic import context
from sqlmodel import SQLModel

import registry.tables
import registry.tuning.tables  # noqa: F401

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("migrations are run by `ostler migrate`, which hands over the connection")
context.configure(connection=connection, target_metadata=SQLModel.metadata, render_as_batch=True, compare_type=True)
with context.begin_transaction():
    context.run_migrations()
