"""The client: databases, collections and their searches, the same for every store.

`_async` holds the asynchronous classes, `_sync` their generated twins; the modules beside them are pure functions.
"""

from qvec.client._async.collection import AsyncCollection
from qvec.client._async.database import AsyncDatabase, connect_async
from qvec.client._sync.collection import Collection
from qvec.client._sync.database import Database, connect
from qvec.client.diversity import mmr
from qvec.client.fusion import reciprocal_rank, weighted_scores
from qvec.client.groups import Group, group
from qvec.client.pages import Page
from qvec.client.reranking import Reranker, rerank

__all__ = [
    "AsyncCollection",
    "AsyncDatabase",
    "Collection",
    "Database",
    "Group",
    "Page",
    "Reranker",
    "connect",
    "connect_async",
    "group",
    "mmr",
    "reciprocal_rank",
    "rerank",
    "weighted_scores",
]
