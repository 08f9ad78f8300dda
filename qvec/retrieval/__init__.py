"""What is done with hits: diversity, groups, pages, fusion of rankings, reranking."""

from qvec.retrieval.diversity import mmr
from qvec.retrieval.fusion import reciprocal_rank, weighted_scores
from qvec.retrieval.grouping import Group, group
from qvec.retrieval.paging import Page
from qvec.retrieval.reranking import Reranker, rerank

__all__ = ["Group", "Page", "Reranker", "group", "mmr", "reciprocal_rank", "rerank", "weighted_scores"]
