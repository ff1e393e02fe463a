"""What Alembic runs for each command: the migrations, on the connection that it was given."""

from alembic import context

from outrider_cloud.store.schema import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    transactional_ddl=True,  # SQLite's is, once transactions are begun by hand
)
with context.begin_transaction():
    context.run_migrations()
