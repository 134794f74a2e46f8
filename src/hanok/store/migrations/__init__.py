"""Steps from one version of the tables to the next, run by alembic through `hanok.store.migrate`."""
