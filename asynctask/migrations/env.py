"""Alembic's entry: migrates over the connection that `asynctask.migrations.upgrade` has open."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, transactional_ddl=False)
context.run_migrations()
