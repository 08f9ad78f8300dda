"""Defaults that several modules and the SQL schema share."""

DEFAULT_OVERSAMPLING = 4
"""Candidates that the prefilter returns for each hit."""

HNSW_M = 16
"""Links that each element of a Postgres HNSW index keeps per layer (pgvector's `m`)."""

HNSW_EF_CONSTRUCTION = 64
"""Candidates that pgvector considers while it links a new element (`ef_construction`)."""
