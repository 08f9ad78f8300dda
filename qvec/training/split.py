"""Split the data of a training run: pairs to train on, queries to select a checkpoint by, and queries to measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvec.errors import InputError
from qvec.training.evaluators import (
    CalibrationSource,
    QuantizedInformationRetrievalEvaluator,
    QuantizedSimilarityEvaluator,
)
from qvec.training.scoring import Scorer, coarsest
from qvec.training.text_datasets import (
    RetrievalDataset,
    TextPairs,
    find_dev_qrels,
    find_qrels,
    read_beir,
    read_pairs,
    retrieval_from_pairs,
)
from qvec.training.train_options import TrainOptions

_HELD_OUT_SHARE = 10
_MAX_HELD_OUT = 500
_EVALUATOR_NAME = "dev"

Evaluation = RetrievalDataset | TextPairs
"""What precisions are measured on: a retrieval dataset by nDCG@10, scored pairs by Spearman's correlation."""


@dataclass(frozen=True)
class CheckpointSelection:
    """The queries that select a checkpoint, their description for messages, and how checkpoints are scored."""

    data: Evaluation
    described: str
    scorer: Scorer

    def evaluator(self, calibration: CalibrationSource, batch_size: int) -> Any:
        """Return an evaluator of sentence-transformers whose primary metric ranks the checkpoints."""
        options: dict[str, Any] = {
            "precision": self.scorer.precision,
            "query_precision": self.scorer.query_precision,
            "calibration": calibration,
            "name": _EVALUATOR_NAME,
            "batch_size": batch_size,
        }
        if isinstance(self.data, TextPairs):
            assert self.data.scores is not None
            return QuantizedSimilarityEvaluator(self.data.queries, self.data.documents, self.data.scores, **options)
        return QuantizedInformationRetrievalEvaluator(
            self.data.queries, self.data.corpus, self.data.relevant, **options
        )

    def trainer_arguments(self, steps: int) -> dict[str, Any]:
        """Return the trainer arguments that evaluate every checkpoint and load the best one at the end."""
        metric = "spearman" if isinstance(self.data, TextPairs) else "ndcg@10"
        return {
            "eval_strategy": "steps",
            "eval_steps": steps,
            "load_best_model_at_end": True,
            "metric_for_best_model": f"eval_{_EVALUATOR_NAME}_{self.scorer.name}_{metric}",
            "greater_is_better": True,
        }


@dataclass(frozen=True)
class TrainingData:
    """Pairs to train on, the measured queries with their description, and the selection of a checkpoint, if any."""

    pairs: TextPairs
    evaluation: Evaluation
    described: str
    selection: CheckpointSelection | None = None

    @property
    def measure(self) -> str:
        """The name of the measure in the tables of precisions."""
        return "Spearman's correlation" if isinstance(self.evaluation, TextPairs) else "nDCG@10"

    def describe_checkpoint(self, step: int | None) -> str | None:
        """Describe the selected checkpoint for the model card; None if there was no selection."""
        if self.selection is None or step is None:
            return None
        return (
            f"the checkpoint of step {step:,}, with the best {self.measure} over {self.selection.described} when "
            f"stored and searched as {self.selection.scorer.name.replace('_', ', ')}"
        )


def read_training_data(options: TrainOptions) -> TrainingData:
    """Read and split the data that the options name.

    Raise InputError unless there is at least one batch to train on and enough queries to select and measure by.
    """
    pairs = read_pairs(options.data, options.columns)
    if options.evaluation is None:
        pairs, held_out = pairs.split(min(len(pairs) // _HELD_OUT_SHARE, _MAX_HELD_OUT), options.seed)
        _check_sizes(pairs, held_out, options)
        return TrainingData(pairs, _as_evaluation(held_out), f"{len(held_out):,} pairs held out")
    _check_sizes(pairs, None, options)
    scorer = coarsest(options.precisions) if options.select is None else Scorer.for_stored(options.select)
    dev = find_dev_qrels(options.evaluation) if options.evaluation.is_dir() else None
    if dev is not None:
        return _split_by_qrels(pairs, options.evaluation, dev, scorer)
    evaluation, described = _read_evaluation(options)
    selecting, measured = evaluation.halve(options.seed)
    return TrainingData(
        pairs, measured, f"half of {described}", CheckpointSelection(selecting, "the other half", scorer)
    )


def _split_by_qrels(pairs: TextPairs, folder: Path, dev: Path, scorer: Scorer) -> TrainingData:
    test = find_qrels(folder)
    described, dev_described = (f"{folder.name}/{qrels.relative_to(folder).as_posix()}" for qrels in (test, dev))
    selection = CheckpointSelection(read_beir(folder, dev), dev_described, scorer)
    return TrainingData(pairs, read_beir(folder, test), described, selection)


def _read_evaluation(options: TrainOptions) -> tuple[Evaluation, str]:
    path = options.evaluation
    assert path is not None
    if path.is_dir():
        return read_beir(path), path.name
    pairs = read_pairs(path, options.columns)
    return _as_evaluation(pairs), f"{len(pairs):,} pairs in {path.name}"


def _as_evaluation(pairs: TextPairs) -> Evaluation:
    return pairs if pairs.scores is not None else retrieval_from_pairs(pairs.queries, pairs.documents)


def _check_sizes(pairs: TextPairs, held_out: TextPairs | None, options: TrainOptions) -> None:
    if len(pairs) < options.batch_size or (held_out is not None and len(held_out) < 2):
        raise InputError(
            f"{options.data}: {len(pairs):,} pairs to train on and {len(held_out or ())} held out found, at least a "
            f"batch of {options.batch_size} and 2 wanted"
        )
