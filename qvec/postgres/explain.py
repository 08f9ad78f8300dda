"""How a search is done: its statement, Postgres's plan, and where its time goes."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from qvec.postgres import search
from qvec.postgres.search import Plan
from qvec.postgres.steps import Fetch, Steps
from qvec.stores import Explanation

_LONG_CONSTANT = re.compile(r"'[^']{80,}'")


def explain(plan: Plan, query: NDArray[np.float32], prepare_ms: float) -> Steps[Explanation]:
    """Runs a search of one prepared query (d,) once to warm up, once under EXPLAIN, and once step by step.

    The plan is what EXPLAIN (ANALYZE, BUFFERS) prints, long constants shortened.
    """
    yield from search.run(plan, query[None])
    lines = yield Fetch(b"EXPLAIN (ANALYZE, BUFFERS) " + plan.statement(), plan.parameters(query))
    steps: dict[str, float] = {"prepare": prepare_ms}
    if plan.in_client and plan.candidates is not None:
        with _timed(steps, "prefilter"):
            (rows,) = yield from search.fetch(plan, query[None])
        if search.found_enough(plan, rows):
            with _timed(steps, "rescore"):
                best = search.best_of(plan, rows, query[None])
            with _timed(steps, "texts"):
                hits = (yield from search.with_texts(plan, best))[0]
        else:
            with _timed(steps, "all rows that pass"):
                hits = (yield from search.run(plan.of_all_rows(), query[None]))[0]
    else:
        with _timed(steps, "search"):
            hits = (yield from search.run(plan, query[None]))[0]
    shortened = tuple(_LONG_CONSTANT.sub("'…'", line[0]) for line in lines)
    return Explanation(plan.statement().decode() + ";", shortened, plan.candidates, steps, hits)


@contextmanager
def _timed(steps: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    steps[name] = (time.perf_counter() - started) * 1e3
