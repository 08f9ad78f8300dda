# Generated from qvec/postgres/_async/__init__.py by tools/async_to_sync.py: edit that file, then run `make sync`.
"""What asks Postgres: statements sent over psycopg's asynchronous connections. `_sync` is generated from it."""
