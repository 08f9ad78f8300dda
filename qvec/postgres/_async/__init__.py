"""What asks Postgres: statements sent over psycopg's asynchronous connections. `_sync` is generated from it."""
