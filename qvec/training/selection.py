"""Which checkpoint of a training is kept: the one whose codes find most for queries that are set aside for it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import TrainerCallback

from qvec.errors import InputError
from qvec.training.evaluators import (
    Calibrated,
    QuantizedInformationRetrievalEvaluator,
    QuantizedSimilarityEvaluator,
)
from qvec.training.pairs import Pairs
from qvec.training.quantizers import PRECISIONS
from qvec.training.retrieval import Retrieval
from qvec.training.scoring import Comparison

_NAME = "dev"


@dataclass(frozen=True)
class Selection:
    """Checkpoints are compared over `data`, which `described` names, stored and searched in one way."""

    comparison: Comparison
    data: Retrieval | Pairs
    described: str

    def evaluator(self, calibration: Calibrated, batch_size: int) -> Any:
        """An evaluator of sentence-transformers, whose primary metric decides: nDCG@10, or Spearman's correlation."""
        options: dict[str, Any] = {
            "precision": self.comparison.precision,
            "query_precision": self.comparison.query_precision,
            "calibration": calibration,
            "name": _NAME,
            "batch_size": batch_size,
        }
        if isinstance(self.data, Pairs):
            assert self.data.scores is not None
            return QuantizedSimilarityEvaluator(self.data.queries, self.data.documents, self.data.scores, **options)
        return QuantizedInformationRetrievalEvaluator(
            self.data.queries, self.data.corpus, self.data.relevant, **options
        )

    def trainer_arguments(self, steps: int) -> dict[str, Any]:
        """What makes sentence-transformers' trainer evaluate at every checkpoint and end with the best one."""
        kind = "spearman" if isinstance(self.data, Pairs) else "ndcg@10"
        return {
            "eval_strategy": "steps",
            "eval_steps": steps,
            "load_best_model_at_end": True,
            "metric_for_best_model": f"eval_{_NAME}_{self.comparison.name}_{kind}",
            "greater_is_better": True,
        }


class EvaluateLast(TrainerCallback):  # type: ignore[misc]
    """The last step is a checkpoint as well, so it has to be compared with the others."""

    def on_step_end(self, _args: Any, state: Any, control: Any, **_others: Any) -> None:
        control.should_evaluate |= state.global_step >= state.max_steps


def comparison_of(precision: str | None, trained: Sequence[str]) -> Comparison:
    """How checkpoints are stored and searched to be compared: in this precision or, without one, in the coarsest that
    is trained, which quantizing costs most; with float32 queries, and ternary, which is only compared with its like,
    by Hamming distance."""
    chosen = precision or max(trained, key=PRECISIONS.index)
    return Comparison(chosen, "ternary" if chosen == "ternary" else "float32")


def halved(data: Retrieval | Pairs, seed: int) -> tuple[Retrieval | Pairs, Retrieval | Pairs]:
    """One half of the queries to select by, the other to measure on: what was selected by seems better than it is.

    Both halves search the whole corpus. Raises InputError where a half would have fewer than 2 queries.
    """
    count = len(data) if isinstance(data, Pairs) else len(data.queries)
    if count < 4:
        raise InputError(f"{count} queries to evaluate on found, at least 4 wanted: half of them select a checkpoint")
    if isinstance(data, Pairs):
        return data.split(count // 2, seed)
    names = random.Random(seed).sample(sorted(data.queries), count)
    return _of(data, names[: count // 2]), _of(data, names[count // 2 :])


def _of(data: Retrieval, names: Sequence[str]) -> Retrieval:
    chosen = set(names)
    queries = {name: text for name, text in data.queries.items() if name in chosen}
    return replace(data, queries=queries, relevant={name: data.relevant[name] for name in queries})
