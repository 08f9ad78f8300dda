"""Defaults that several modules and the SQL schema share."""

DEFAULT_OVERSAMPLING = 4
"""Candidates that the prefilter returns for each hit."""

HNSW_M = 16
"""Links that each element of a Postgres HNSW index keeps per layer (pgvector's `m`)."""

HNSW_EF_CONSTRUCTION = 64
"""Candidates that pgvector considers while it links a new element (`ef_construction`)."""

MIN_EF_SEARCH, MAX_EF_SEARCH = 40, 1000
"""pgvector's default and limit of `hnsw.ef_search`, the width of a search of the graph."""


def ef_search(candidates: int) -> int:
    """Return the `hnsw.ef_search` of a search for this many candidates."""
    return min(max(candidates, MIN_EF_SEARCH), MAX_EF_SEARCH)
