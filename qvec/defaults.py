"""Defaults that several modules and the SQL schema share."""

import math

DEFAULT_OVERSAMPLING = 4
"""Candidates that the prefilter returns for each hit."""

HNSW_M = 12
"""Links that each element of a Postgres HNSW index keeps per layer (pgvector's `m`)."""

HNSW_EF_CONSTRUCTION = 128
"""Candidates that pgvector considers while it links a new element (`ef_construction`)."""

DEFAULT_EF_SEARCH, MAX_EF_SEARCH = 40, 1000
"""pgvector's default and limit of `hnsw.ef_search`, the width of a search of the graph."""

EF_PER_CANDIDATE = 1.25
"""Width of a search of the graph for each candidate: with few links, a search as narrow as the number of candidates
misses more neighbours than the prefilter does."""


def ef_search(k: int, candidates: int) -> int:
    """Return the `hnsw.ef_search` of a search for k hits among this many candidates.

    For fewer than 10 hits it is as large as for 10, up to pgvector's default.
    """
    wide = math.ceil(EF_PER_CANDIDATE * candidates)
    as_for_ten = -(-10 * wide // k)
    return min(max(wide, min(as_for_ten, DEFAULT_EF_SEARCH)), MAX_EF_SEARCH)
