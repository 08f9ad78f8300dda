"""Evaluators of sentence-transformers that see embeddings as qvec stores them; for choosing among checkpoints too.

All take `precision` (of documents), `query_precision` (default float32, as qvec rescores; the same as `precision` for
a search by codes alone) and `calibration`: one, or a function that gives the one of the moment, e.g.
`loss.to_calibration` while a model trains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.sentence_transformer.evaluation import BaseEvaluator, InformationRetrievalEvaluator
from torch import Tensor

from qvec.calibration import Calibration
from qvec.errors import InputError
from qvec.training.retrieval import read_retrieval
from qvec.training.scoring import Comparison

Calibrated = Calibration | Callable[[], Calibration]


class QuantizedInformationRetrievalEvaluator(InformationRetrievalEvaluator):  # type: ignore[misc]
    """`InformationRetrievalEvaluator` over quantized embeddings. Its main metric is {name}_{precision}_ndcg@10.

    queries, corpus and relevant_docs are as there, and so are further options.
    """

    def __init__(
        self,
        queries: Mapping[str, str],
        corpus: Mapping[str, str],
        relevant_docs: Mapping[str, set[str]],
        *,
        precision: str,
        query_precision: str = "float32",
        calibration: Calibrated,
        **options: Any,
    ) -> None:
        comparison = Comparison(precision, query_precision)

        def scores(queries: Tensor, documents: Tensor) -> Tensor:
            return comparison.scores(queries, documents, _now(calibration))

        super().__init__(
            dict(queries), dict(corpus), dict(relevant_docs), score_functions={comparison.name: scores}, **options
        )


class QuantizedTripletEvaluator(BaseEvaluator):  # type: ignore[misc]
    """The share of triplets whose anchor (a query) is nearer to the positive than to the negative document."""

    def __init__(
        self,
        anchors: Sequence[str],
        positives: Sequence[str],
        negatives: Sequence[str],
        *,
        precision: str,
        query_precision: str = "float32",
        calibration: Calibrated,
        name: str = "",
        batch_size: int = 16,
    ) -> None:
        super().__init__()
        _check_lengths(anchors=anchors, positives=positives, negatives=negatives)
        self.texts = anchors, positives, negatives
        self.comparison = Comparison(precision, query_precision)
        self.calibration = calibration
        self.name = name
        self.batch_size = batch_size
        self.primary_metric = f"{self.comparison.name}_accuracy"

    def __call__(
        self,
        model: Any,
        output_path: str | None = None,  # noqa: ARG002 - the trainer gives it by name
        epoch: int = -1,
        steps: int = -1,
    ) -> dict[str, float]:
        anchors, *documents = self.texts
        queries = _embed(model.encode_query, anchors, self.batch_size)
        calibration = _now(self.calibration)
        nearer, further = (
            self.comparison.pairwise(queries, _embed(model.encode_document, texts, self.batch_size), calibration)
            for texts in documents
        )
        accuracy = (nearer > further).float().mean().item()
        return _reported(self, model, {f"{self.comparison.name}_accuracy": accuracy}, epoch, steps)


class QuantizedSimilarityEvaluator(BaseEvaluator):  # type: ignore[misc]
    """Spearman's and Pearson's correlation of given scores with the similarity of two texts.

    Both are embedded as documents, which is what is stored; `query_precision` is that of the first.
    """

    def __init__(
        self,
        sentences1: Sequence[str],
        sentences2: Sequence[str],
        scores: Sequence[float],
        *,
        precision: str,
        query_precision: str = "float32",
        calibration: Calibrated,
        name: str = "",
        batch_size: int = 16,
    ) -> None:
        super().__init__()
        _check_lengths(sentences1=sentences1, sentences2=sentences2, scores=scores)
        self.texts = sentences1, sentences2
        self.scores = scores
        self.comparison = Comparison(precision, query_precision)
        self.calibration = calibration
        self.name = name
        self.batch_size = batch_size
        self.primary_metric = f"{self.comparison.name}_spearman"

    def __call__(
        self,
        model: Any,
        output_path: str | None = None,  # noqa: ARG002 - the trainer gives it by name
        epoch: int = -1,
        steps: int = -1,
    ) -> dict[str, float]:
        from scipy.stats import pearsonr, spearmanr

        left, right = (_embed(model.encode_document, texts, self.batch_size) for texts in self.texts)
        found = self.comparison.pairwise(left, right, _now(self.calibration)).cpu().numpy()
        metrics = {
            f"{self.comparison.name}_spearman": spearmanr(self.scores, found).statistic,
            f"{self.comparison.name}_pearson": pearsonr(self.scores, found).statistic,
        }
        return _reported(self, model, metrics, epoch, steps)


class QuantizedNanoBEIREvaluator(BaseEvaluator):  # type: ignore[misc]
    """Retrieval over several data sets, as NanoBEIR, from local folders in BEIR's layout; and the mean over them.

    folders: each holds corpus.jsonl, queries.jsonl, and qrels.tsv or a folder qrels with one .tsv, or test.tsv among
    several.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        *,
        precision: str,
        query_precision: str = "float32",
        calibration: Calibrated,
        name: str = "NanoBEIR_mean",
        **options: Any,
    ) -> None:
        super().__init__()
        if not folders:
            raise InputError("no folders given to evaluate on")
        comparison = Comparison(precision, query_precision)
        chosen: dict[str, Any] = {
            "precision": precision,
            "query_precision": query_precision,
            "calibration": calibration,
        }
        self.name = name
        self.evaluators = []
        for folder in map(Path, folders):
            data = read_retrieval(folder)
            self.evaluators.append(
                QuantizedInformationRetrievalEvaluator(
                    data.queries, data.corpus, data.relevant, name=folder.name, **chosen, **options
                )
            )
        self.primary_metric = f"{comparison.name}_ndcg@10"

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        metrics: dict[str, float] = {}
        together: dict[str, list[float]] = {}
        for evaluator in self.evaluators:
            for name, value in evaluator(model, output_path, epoch, steps).items():
                metrics[name] = value
                together.setdefault(name.removeprefix(f"{evaluator.name}_"), []).append(value)
        means = {name: sum(values) / len(values) for name, values in together.items()}
        return {**metrics, **_reported(self, model, means, epoch, steps)}


def _now(calibration: Calibrated) -> Calibration:
    return calibration if isinstance(calibration, Calibration) else calibration()


def _check_lengths(**columns: Sequence[Any]) -> None:
    if len({len(column) for column in columns.values()}) > 1:
        found = ", ".join(f"{len(column)} {name}" for name, column in columns.items())
        raise InputError(f"{found} found, as many of each wanted")


def _embed(encode: Any, texts: Sequence[str], batch_size: int) -> Tensor:
    vectors: Tensor = encode(list(texts), batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False)
    return vectors.to(torch.float32)


def _reported(
    evaluator: BaseEvaluator, model: Any, metrics: dict[str, float], epoch: int, steps: int
) -> dict[str, float]:
    named: dict[str, float] = evaluator.prefix_name_to_metrics(metrics, evaluator.name)
    evaluator.store_metrics_in_model_card_data(model, named, epoch, steps)
    return named
