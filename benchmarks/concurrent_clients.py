"""Searches per second of several clients at once, each a process with a connection of its own."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier

from harness import Vectors
from search_methods import SearchMethod, open_method, search_all

CLIENTS = 8
_START_SECONDS = 120
"""That clients wait for each other at most."""


def concurrent_rates(
    url: str, settings: Mapping[type[SearchMethod], float], queries: Vectors, repeat: int
) -> dict[type[SearchMethod], list[float]]:
    """Return the searches per second of all clients together for each method with its setting, in each repetition.

    The methods take turns. In a repetition each client searches for all queries.
    """
    rates: dict[type[SearchMethod], list[float]] = {kind: [] for kind in settings}
    for repetition in range(repeat):
        for kind in list(settings)[:: -1 if repetition % 2 else 1]:
            rates[kind].append(_rate(url, kind, settings[kind], queries))
    return rates


def _rate(url: str, kind: type[SearchMethod], setting: float, queries: Vectors) -> float:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(CLIENTS)
    with ProcessPoolExecutor(CLIENTS, context, _share_start, (start,)) as pool:
        clients = [pool.submit(_search_seconds, url, kind, setting, queries) for _ in range(CLIENTS)]
        return sum(len(queries) / client.result() for client in clients)


_start: Barrier
"""At which the clients of a repetition wait until all have connected."""


def _share_start(start: Barrier) -> None:
    global _start
    _start = start


def _search_seconds(url: str, kind: type[SearchMethod], setting: float, queries: Vectors) -> float:
    with open_method(kind, url) as method:
        search = method.configure(setting)
        search(queries[0])
        _start.wait(_START_SECONDS)
        began = time.perf_counter()
        search_all(search, queries)
        return time.perf_counter() - began
