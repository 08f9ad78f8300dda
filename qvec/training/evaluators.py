"""Evaluators of sentence-transformers on quantized embeddings, also to select the best checkpoint of a training.

All take `precision` (of documents), `query_precision` (float32 by default, as qvec rescores; the same as `precision`
for a search by codes alone) and `calibration`: a `Calibration`, or a function that returns the current one during a
training, e.g. `loss.to_calibration`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import pearsonr, spearmanr
from sentence_transformers.sentence_transformer.evaluation import BaseEvaluator, InformationRetrievalEvaluator
from torch import Tensor

from qvec.calibration import Calibration
from qvec.errors import InputError
from qvec.training.scoring import Scorer
from qvec.training.text_datasets import read_beir

CalibrationSource = Calibration | Callable[[], Calibration]


class QuantizedInformationRetrievalEvaluator(InformationRetrievalEvaluator):  # type: ignore[misc]
    """`InformationRetrievalEvaluator` on quantized embeddings. Its primary metric is {name}_{precision}_ndcg@10.

    queries, corpus, relevant_docs and further options are those of the base class.
    """

    def __init__(
        self,
        queries: Mapping[str, str],
        corpus: Mapping[str, str],
        relevant_docs: Mapping[str, set[str]],
        *,
        precision: str,
        query_precision: str = "float32",
        calibration: CalibrationSource,
        **options: Any,
    ) -> None:
        scorer = Scorer(precision, query_precision)

        def scores(queries: Tensor, documents: Tensor) -> Tensor:
            return scorer.scores(queries, documents, _current(calibration))

        super().__init__(
            dict(queries), dict(corpus), dict(relevant_docs), score_functions={scorer.name: scores}, **options
        )


class _ColumnEvaluator(BaseEvaluator):  # type: ignore[misc]
    """Base of the evaluators that score columns of texts row by row."""

    def __init__(
        self,
        columns: Mapping[str, Sequence[Any]],
        scorer: Scorer,
        calibration: CalibrationSource,
        metric: str,
        name: str,
        batch_size: int,
    ) -> None:
        super().__init__()
        if len({len(column) for column in columns.values()}) > 1:
            found = ", ".join(f"{len(column)} {title}" for title, column in columns.items())
            raise InputError(f"{found} found, expected equally many")
        self.columns = tuple(columns.values())
        self.scorer = scorer
        self.calibration = calibration
        self.name = name
        self.batch_size = batch_size
        self.primary_metric = f"{scorer.name}_{metric}"

    def __call__(
        self,
        model: Any,
        output_path: str | None = None,  # noqa: ARG002 - the trainer passes it by name
        epoch: int = -1,
        steps: int = -1,
    ) -> dict[str, float]:
        metrics = {f"{self.scorer.name}_{name}": value for name, value in self._metrics(model).items()}
        return _record(self, model, metrics, epoch, steps)

    def _metrics(self, model: Any) -> dict[str, float]:
        raise NotImplementedError

    def _scores(self, left: Tensor, right: Tensor) -> Tensor:
        return self.scorer.pairwise_scores(left, right, _current(self.calibration))

    def _embed(self, encode: Callable[..., Any], texts: Sequence[str]) -> Tensor:
        embeddings: Tensor = encode(
            list(texts), batch_size=self.batch_size, convert_to_tensor=True, show_progress_bar=False
        )
        return embeddings.to(torch.float32)


class QuantizedTripletEvaluator(_ColumnEvaluator):
    """The share of triplets whose anchor (a query) scores higher with the positive than with the negative document."""

    def __init__(
        self,
        anchors: Sequence[str],
        positives: Sequence[str],
        negatives: Sequence[str],
        *,
        precision: str,
        query_precision: str = "float32",
        calibration: CalibrationSource,
        name: str = "",
        batch_size: int = 16,
    ) -> None:
        columns = {"anchors": anchors, "positives": positives, "negatives": negatives}
        super().__init__(columns, Scorer(precision, query_precision), calibration, "accuracy", name, batch_size)

    def _metrics(self, model: Any) -> dict[str, float]:
        anchors, positives, negatives = self.columns
        queries = self._embed(model.encode_query, anchors)
        positive = self._scores(queries, self._embed(model.encode_document, positives))
        negative = self._scores(queries, self._embed(model.encode_document, negatives))
        return {"accuracy": (positive > negative).float().mean().item()}


class QuantizedSimilarityEvaluator(_ColumnEvaluator):
    """Spearman's and Pearson's correlation of given scores with the similarities of pairs of texts.

    Both texts are embedded as documents; `query_precision` is the precision of the first.
    """

    def __init__(
        self,
        sentences1: Sequence[str],
        sentences2: Sequence[str],
        scores: Sequence[float],
        *,
        precision: str,
        query_precision: str = "float32",
        calibration: CalibrationSource,
        name: str = "",
        batch_size: int = 16,
    ) -> None:
        columns = {"sentences1": sentences1, "sentences2": sentences2, "scores": scores}
        super().__init__(columns, Scorer(precision, query_precision), calibration, "spearman", name, batch_size)

    def _metrics(self, model: Any) -> dict[str, float]:
        first, second, scores = self.columns
        similarities = self._scores(
            self._embed(model.encode_document, first), self._embed(model.encode_document, second)
        )
        found = similarities.cpu().numpy()
        return {"spearman": spearmanr(scores, found).statistic, "pearson": pearsonr(scores, found).statistic}


class QuantizedNanoBEIREvaluator(BaseEvaluator):  # type: ignore[misc]
    """Retrieval on several local datasets in BEIR's layout, like NanoBEIR, and the mean over them.

    folders: each holds corpus.jsonl, queries.jsonl, and either qrels.tsv or a folder qrels with one .tsv file or
    test.tsv among several.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        *,
        precision: str,
        query_precision: str = "float32",
        calibration: CalibrationSource,
        name: str = "NanoBEIR_mean",
        **options: Any,
    ) -> None:
        super().__init__()
        if not folders:
            raise InputError("no folders given to evaluate on")
        self.name = name
        self.evaluators = []
        for folder in map(Path, folders):
            data = read_beir(folder)
            self.evaluators.append(
                QuantizedInformationRetrievalEvaluator(
                    data.queries,
                    data.corpus,
                    data.relevant,
                    precision=precision,
                    query_precision=query_precision,
                    calibration=calibration,
                    name=folder.name,
                    **options,
                )
            )
        self.primary_metric = f"{Scorer(precision, query_precision).name}_ndcg@10"

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        metrics: dict[str, float] = {}
        values: dict[str, list[float]] = {}
        for evaluator in self.evaluators:
            for name, value in evaluator(model, output_path, epoch, steps).items():
                metrics[name] = value
                values.setdefault(name.removeprefix(f"{evaluator.name}_"), []).append(value)
        means = {name: sum(found) / len(found) for name, found in values.items()}
        return {**metrics, **_record(self, model, means, epoch, steps)}


def _current(calibration: CalibrationSource) -> Calibration:
    return calibration if isinstance(calibration, Calibration) else calibration()


def _record(
    evaluator: BaseEvaluator, model: Any, metrics: dict[str, float], epoch: int, steps: int
) -> dict[str, float]:
    """Prefix the metrics with the evaluator's name and add them to the model card."""
    named: dict[str, float] = evaluator.prefix_name_to_metrics(metrics, evaluator.name)
    evaluator.store_metrics_in_model_card_data(model, named, epoch, steps)
    return named
