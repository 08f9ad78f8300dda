"""Defaults that several modules and the SQL schema share."""

DEFAULT_OVERSAMPLING = 4
"""Candidates that the prefilter returns for each hit."""

HNSW_M = 16
"""Links that each element of a Postgres HNSW index keeps per layer (pgvector's `m`)."""

HNSW_EF_CONSTRUCTION = 64
"""Candidates that pgvector considers while it links a new element (`ef_construction`)."""

DEFAULT_EF_SEARCH, MAX_EF_SEARCH = 40, 1000
"""pgvector's default and limit of `hnsw.ef_search`, the width of a search of the graph."""


def ef_search(k: int, candidates: int) -> int:
    """Return the `hnsw.ef_search` of a search for k hits among this many candidates.

    It is the number of candidates. For fewer than 10 hits it is as large as for 10, up to pgvector's default: a
    narrower search of the graph would miss more neighbours than the prefilter does.
    """
    as_for_ten = -(-10 * candidates // k)
    return min(max(candidates, min(as_for_ten, DEFAULT_EF_SEARCH)), MAX_EF_SEARCH)
