"""The Postgres store: pgvector's bit and halfvec columns, an expression index, and two-step search."""
