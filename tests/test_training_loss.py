"""The quantization-aware loss: gradients of each precision, gradient caching, Matryoshka, schedules, ranges."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_models import ANSWERS, DIMENSIONS, NEGATIVES, QUERIES, tiny_model

from qvec import Calibration, InputError, RangeMethod

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from sentence_transformers.sentence_transformer import losses  # noqa: E402

from qvec.training import (  # noqa: E402
    QuantizationAwareLoss,
    QuantizationCallback,
    constant,
    linear,
    quantize_ste,
    staged,
)
from qvec.training.quantizers import PRECISIONS, Scale  # noqa: E402
from qvec.training.range_tracker import RangeTracker  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

Grads = list[Any]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = tiny_model(tmp_path_factory.mktemp("tiny"))
    made.train()
    return made


@pytest.fixture(scope="module")
def calibration(model: Any) -> Calibration:
    return Calibration.fit(model.encode(QUERIES + ANSWERS + NEGATIVES), threshold=0)


def columns(model: Any, *texts: list[str]) -> list[dict[str, Any]]:
    return [model.preprocess(column) for column in texts]


def gradient(model: Any, value: Any) -> Any:
    """Return the gradient of every weight, in one vector."""
    model.zero_grad()
    (sum(value.values()) if isinstance(value, dict) else value).backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


def assert_close(found: Any, wanted: Any) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def ranking_loss(queries: Any, documents: Any) -> Any:
    """Return the multiple negatives ranking loss: cross-entropy over 20 times the cosines (Henderson et al. 2017)."""
    normalized = torch.nn.functional.normalize
    scores = 20 * normalized(queries) @ normalized(documents).T
    return torch.nn.functional.cross_entropy(scores, torch.arange(len(scores)))


def embedded(model: Any, *texts: list[str]) -> list[Any]:
    return [model(column)["sentence_embedding"] for column in columns(model, *texts)]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_loss_equals_wrapped_loss_of_decoded_codes(model: Any, calibration: Calibration, precision: str) -> None:
    queries, answers = embedded(model, QUERIES, ANSWERS)
    quantized = [quantize_ste(vectors, calibration, precision) for vectors in (queries, answers)]
    wanted = gradient(model, ranking_loss(*quantized))
    loss = QuantizationAwareLoss(
        model, losses.MultipleNegativesRankingLoss(model), [precision], calibration=calibration
    )
    found = loss(columns(model, QUERIES, ANSWERS), None)
    assert_close(found[precision], ranking_loss(*quantized))
    assert_close(gradient(model, found), wanted)


class InPlaceLoss(losses.MultipleNegativesRankingLoss):
    """A loss that changes embeddings in place, as losses that truncate or normalize do."""

    def forward(self, sentence_features: Any, labels: Any) -> Any:  # noqa: ARG002
        outputs = [self.model(features) for features in sentence_features]
        for output in outputs:
            output["sentence_embedding"].mul_(3).sub_(0.25)
            output["sentence_embedding"] = output["sentence_embedding"][:, :7]
        again = [self.model(features)["sentence_embedding"].shape[1] for features in sentence_features]
        assert again == [DIMENSIONS] * len(outputs)
        return ranking_loss(*(output["sentence_embedding"] for output in outputs))


@pytest.mark.parametrize("wrapped", [losses.MultipleNegativesRankingLoss, InPlaceLoss])
def test_gradients_of_precisions_are_independent(
    model: Any, calibration: Calibration, wrapped: Callable[[Any], Any]
) -> None:
    def components(precisions: tuple[str, ...]) -> dict[str, Any]:
        loss = QuantizationAwareLoss(model, wrapped(model), precisions, calibration=calibration)
        return loss(columns(model, QUERIES, ANSWERS), None)

    weights = [weight for weight in model.parameters() if weight.requires_grad]
    together = components(PRECISIONS)
    for precision in PRECISIONS:
        alone = components((precision,))[precision]
        of_alone = torch.autograd.grad(alone, weights, allow_unused=True)
        of_together = torch.autograd.grad(together[precision], weights, retain_graph=True, allow_unused=True)
        assert torch.equal(together[precision], alone)
        for left, right in zip(of_together, of_alone, strict=True):
            assert (left is None and right is None) or torch.equal(left, right)


def test_texts_are_embedded_once_for_all_precisions(model: Any) -> None:
    passes = []
    hook = model.register_forward_pre_hook(lambda _model, _inputs: passes.append(model.forward.__name__))
    loss = QuantizationAwareLoss(model, losses.TripletLoss(model), PRECISIONS)
    loss(columns(model, QUERIES, ANSWERS, NEGATIVES), None)
    hook.remove()
    assert passes.count("forward") == 3
    assert set(passes) == {"forward", "serve"}
    assert inspect.ismethod(model.forward)


def wrapped_losses(model: Any) -> dict[str, tuple[Any, list[list[str]], Any]]:
    scores = torch.linspace(0, 1, len(QUERIES))
    return {
        "pairs": (losses.MultipleNegativesRankingLoss(model), [QUERIES, ANSWERS], None),
        "triplets in a batch": (losses.MultipleNegativesRankingLoss(model), [QUERIES, ANSWERS, NEGATIVES], None),
        "triplets": (losses.TripletLoss(model), [QUERIES, ANSWERS, NEGATIVES], None),
        "scored, CoSENT": (losses.CoSENTLoss(model), [QUERIES, ANSWERS], scores),
        "scored, cosine": (losses.CosineSimilarityLoss(model), [QUERIES, ANSWERS], scores),
        "in parts": (losses.GlobalOrthogonalRegularizationLoss(model), [QUERIES, ANSWERS], None),
        "by label": (losses.BatchAllTripletLoss(model), [QUERIES], torch.tensor([0, 0, 1, 1, 2, 2])),
    }


KINDS = ["pairs", "triplets in a batch", "triplets", "scored, CoSENT", "scored, cosine", "in parts", "by label"]


@pytest.mark.parametrize("kind", KINDS)
def test_float32_alone_equals_wrapped_loss(model: Any, kind: str) -> None:
    wrapped, texts, labels = wrapped_losses(model)[kind]
    plain = wrapped(columns(model, *texts), labels)
    total = sum(plain.values()) if isinstance(plain, dict) else plain
    found = QuantizationAwareLoss(model, wrapped, ["float32"])(columns(model, *texts), labels)
    assert_close(found["float32"], total)
    assert_close(gradient(model, found), gradient(model, plain))


@pytest.mark.parametrize("kind", KINDS)
def test_every_wrapped_loss_trains_every_precision(model: Any, kind: str) -> None:
    wrapped, texts, labels = wrapped_losses(model)[kind]
    found = QuantizationAwareLoss(model, wrapped, PRECISIONS, asymmetric=len(texts) > 1)(columns(model, *texts), labels)
    assert tuple(found) == PRECISIONS
    assert gradient(model, found).norm() > 0


def test_asymmetric_loss_does_not_quantize_query(model: Any, calibration: Calibration) -> None:
    queries, answers = embedded(model, QUERIES, ANSWERS)
    wanted = ranking_loss(queries, quantize_ste(answers, calibration, "binary"))
    loss = QuantizationAwareLoss(
        model, losses.MultipleNegativesRankingLoss(model), ["binary"], asymmetric=True, calibration=calibration
    )
    found = loss(columns(model, QUERIES, ANSWERS), None)
    assert_close(found["binary"], wanted)
    assert_close(gradient(model, found), gradient(model, wanted))


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_prefix_calibration_truncates_every_precision(model: Any, asymmetric: bool, cached: bool) -> None:
    fewer = Calibration.fit(model.encode(QUERIES + ANSWERS + NEGATIVES), threshold=0, dimensions=12)
    queries, answers = (torch.nn.functional.normalize(each[:, :12]) for each in embedded(model, QUERIES, ANSWERS))
    wanted = {}
    for precision in PRECISIONS:
        query_vectors = queries if asymmetric else quantize_ste(queries, fewer, precision)
        wanted[precision] = ranking_loss(query_vectors, quantize_ste(answers, fewer, precision))
    loss = QuantizationAwareLoss(
        model,
        losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=4)
        if cached
        else losses.MultipleNegativesRankingLoss(model),
        PRECISIONS,
        asymmetric=asymmetric,
        calibration=fewer,
    )
    found = loss(columns(model, QUERIES, ANSWERS), None)
    for precision in PRECISIONS:
        assert_close(found[precision].detach(), wanted[precision].detach())
    assert_close(gradient(model, found), gradient(model, wanted))


CACHED = {
    "ranking": lambda model: losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=4),
    "guided": lambda model: losses.CachedGISTEmbedLoss(model, model, mini_batch_size=4),
}
PLAIN = {
    "ranking": lambda model: losses.MultipleNegativesRankingLoss(model),
    "guided": lambda model: losses.CachedGISTEmbedLoss(model, model, mini_batch_size=64),
}
DIMS = [DIMENSIONS, 12]
ORDERS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "alone": lambda _model, wrapped, qat: qat(wrapped),
    "around Matryoshka": lambda model, wrapped, qat: qat(losses.MatryoshkaLoss(model, wrapped, DIMS, [1, 0.5])),
    "inside Matryoshka": lambda model, wrapped, qat: losses.MatryoshkaLoss(model, qat(wrapped), DIMS, [1, 0.5]),
}


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", CACHED)
def test_gradient_caching_changes_neither_loss_nor_gradient(
    model: Any, kind: str, order: str, asymmetric: bool
) -> None:
    def run(wrapped: Any) -> tuple[Any, Any]:
        loss = ORDERS[order](
            model,
            wrapped,
            lambda inner: QuantizationAwareLoss(
                model, inner, PRECISIONS, weights=[1, 0.5, 2, 0.25, 0.75], asymmetric=asymmetric
            ),
        )
        value = loss(columns(model, QUERIES, ANSWERS, NEGATIVES), None)
        total = (sum(value.values()) if isinstance(value, dict) else value).detach()
        return total, gradient(model, value)

    cached, plain = run(CACHED[kind](model)), run(PLAIN[kind](model))
    assert_close(cached[0], plain[0])
    assert_close(cached[1], plain[1])


def test_inside_matryoshka_each_prefix_has_its_own_ranges(model: Any) -> None:
    loss = QuantizationAwareLoss(model, losses.MultipleNegativesRankingLoss(model), ["int8"])
    value = losses.MatryoshkaLoss(model, loss, DIMS)(columns(model, QUERIES, ANSWERS), None)
    wanted = torch.zeros(())
    for width in DIMS:
        cut = [torch.nn.functional.normalize(e[:, :width]) for e in embedded(model, QUERIES, ANSWERS)]
        scale = Scale.of(loss.to_calibration(width))
        wanted = wanted + ranking_loss(*(quantize_ste(vectors, scale, "int8") for vectors in cut))
    assert_close(value, wanted)
    assert loss.to_calibration(12).accepted_dimensions == (12, DIMENSIONS)


def test_around_matryoshka_vectors_are_quantized_before_truncation(model: Any, calibration: Calibration) -> None:
    inner = losses.MatryoshkaLoss(model, losses.MultipleNegativesRankingLoss(model), DIMS)
    loss = QuantizationAwareLoss(model, inner, ["binary"], calibration=calibration)
    value = loss(columns(model, QUERIES, ANSWERS), None)["binary"]
    quantized = [quantize_ste(vectors, calibration, "binary") for vectors in embedded(model, QUERIES, ANSWERS)]
    assert_close(value, sum(ranking_loss(*(vectors[:, :width] for vectors in quantized)) for width in DIMS))


def test_weights_and_schedule_select_active_precisions(model: Any, calibration: Calibration) -> None:
    loss = QuantizationAwareLoss(
        model,
        losses.MultipleNegativesRankingLoss(model),
        weights=(1, 1, 0.5),
        schedule=staged({"int8": 1, "binary": 3}),
        calibration=calibration,
    )
    counted = [tuple(loss(columns(model, QUERIES, ANSWERS), None)) for _ in range(4)]
    assert counted == [("float32",), ("float32", "int8"), ("float32", "int8"), ("float32", "int8", "binary")]
    halved = loss(columns(model, QUERIES, ANSWERS), None)["binary"]
    quantized = [quantize_ste(vectors, calibration, "binary") for vectors in embedded(model, QUERIES, ANSWERS)]
    assert_close(halved, 0.5 * ranking_loss(*quantized))


def test_schedules() -> None:
    assert [linear(4)("binary", step) for step in (0, 1, 4, 9)] == [0, 0.25, 1, 1]
    assert linear(4)("float32", 0) == constant()("binary", 0) == 1
    assert [staged()("binary", step) for step in (1_799, 1_800)] == [0, 1]
    assert staged()("int8", 199) == 0 < staged()("int4", 0)


def test_evaluation_does_not_advance_schedule(model: Any) -> None:
    loss = QuantizationAwareLoss(
        model, losses.MultipleNegativesRankingLoss(model), schedule=staged({"int8": 1, "binary": 1})
    )
    with torch.no_grad():
        for _ in range(3):
            assert tuple(loss(columns(model, QUERIES, ANSWERS), None)) == ("float32",)
    with pytest.raises(InputError, match="no embeddings of 20 dimensions have been trained on"):
        loss.to_calibration()


BATCHES = [[QUERIES, ANSWERS], [ANSWERS, NEGATIVES], [NEGATIVES, QUERIES]]


@pytest.mark.parametrize("per_dimension", [True, False])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_rolling_ranges_are_moving_averages(model: Any, asymmetric: bool, per_dimension: bool) -> None:
    method = RangeMethod("rolling", momentum=0.8, spread=3, per_dimension=per_dimension)
    loss = QuantizationAwareLoss(
        model, losses.MultipleNegativesRankingLoss(model), asymmetric=asymmetric, calibration=method, threshold=0.5
    )
    mean = std = deviation = None
    for texts in BATCHES:
        loss(columns(model, *texts), None)
        rows = model.encode(texts[1] if asymmetric else texts[0] + texts[1]).astype(np.float64)
        found = rows.mean(0), rows.std(0), np.abs(rows - 0.5 * rows.mean(0)).mean(0)
        if mean is None:
            mean, std, deviation = found
        else:
            mean, std, deviation = (0.8 * a + 0.2 * b for a, b in zip((mean, std, deviation), found, strict=True))
    calibration = loss.to_calibration()
    radius = 3 * std + np.abs(mean - 0.5 * mean)
    if not per_dimension:
        radius, deviation = np.full(DIMENSIONS, radius.max()), np.full(DIMENSIONS, deviation.mean())
    for array, wanted in (("threshold", 0.5 * mean), ("radius", radius), ("deviation", deviation), ("std", std)):
        np.testing.assert_allclose(getattr(calibration, array), wanted, rtol=1e-4, atol=1e-6)
    assert calibration.metric == "cosine"
    assert calibration.description["sample"]["size"] == 18 * (1 if asymmetric else 2)
    assert Calibration.from_bytes(calibration.to_bytes()) == calibration


def test_minmax_uses_ranges_of_batch(model: Any) -> None:
    loss = QuantizationAwareLoss(
        model, losses.MultipleNegativesRankingLoss(model), ["int4"], calibration=RangeMethod("minmax")
    )
    loss(columns(model, NEGATIVES, QUERIES), None)
    value = loss(columns(model, QUERIES, ANSWERS), None)["int4"]
    pair = embedded(model, QUERIES, ANSWERS)
    rows = torch.cat(pair).detach()
    scale = Scale(torch.zeros(DIMENSIONS), rows.abs().amax(0), rows.abs().mean(0))
    assert_close(value, ranking_loss(*(quantize_ste(vectors, scale, "int4") for vectors in pair)))


def test_frozen_ranges_do_not_change(model: Any) -> None:
    loss = QuantizationAwareLoss(
        model, losses.MultipleNegativesRankingLoss(model), ["int4"], calibration=RangeMethod("minmax")
    )
    for texts in BATCHES:
        loss(columns(model, *texts), None)
    loss.freeze()
    before = loss.to_calibration()
    value = loss(columns(model, QUERIES, NEGATIVES), None)["int4"]
    assert loss.to_calibration() == before
    assert_close(value, ranking_loss(*(quantize_ste(v, before, "int4") for v in embedded(model, QUERIES, NEGATIVES))))


def test_callback_freezes_ranges_and_advances_schedule(model: Any) -> None:
    loss = QuantizationAwareLoss(
        model, losses.MultipleNegativesRankingLoss(model), schedule=staged({"int8": 50, "binary": 90})
    )
    callback = QuantizationCallback(loss)
    for step, frozen, counted in ((49, False, 1), (50, False, 2), (89, False, 2), (90, True, 3)):
        callback.on_step_begin(None, SimpleNamespace(global_step=step, max_steps=100), None)
        assert loss.frozen is frozen
        assert len(loss(columns(model, QUERIES, ANSWERS), None)) == counted


def test_non_finite_batch_is_excluded_from_ranges() -> None:
    ranges = RangeTracker(RangeMethod("rolling"), 0.0, "ip")
    unit = torch.nn.functional.one_hot(torch.arange(3)).float()
    ranges.update(unit)
    alone = ranges.calibration(3)
    for value in ("inf", "nan"):
        ranges.update(torch.full((4, 3), float(value)))
    assert ranges.batches == 1
    assert ranges.calibration(3) == alone
    assert alone.description["normalized"] is True


def test_embeddings_of_unnormalized_model_are_normalized(tmp_path: Any) -> None:
    raw = tiny_model(tmp_path, normalize=False)
    loss = QuantizationAwareLoss(raw, losses.MultipleNegativesRankingLoss(raw), ["int8"])
    loss(columns(raw, QUERIES, ANSWERS), None)
    calibration = loss.to_calibration()
    unit = raw.encode(QUERIES + ANSWERS, normalize_embeddings=True)
    np.testing.assert_allclose(calibration.std, unit.std(0), rtol=1e-4)
    assert calibration.description["normalized"] is False


class Elsewhere(losses.MultipleNegativesRankingLoss):
    """A loss that embeds copies of its inputs."""

    def forward(self, sentence_features: Any, labels: Any) -> Any:
        return super().forward([dict(features) for features in sentence_features], labels)


def test_unsupported_losses_and_arguments_raise(model: Any, tmp_path: Any) -> None:
    ranking = losses.MultipleNegativesRankingLoss(model)
    other = tiny_model(tmp_path, seed=1)
    with pytest.raises(InputError, match="Elsewhere embeds inputs that it makes itself"):
        QuantizationAwareLoss(model, Elsewhere(model))(columns(model, QUERIES, ANSWERS), None)
    assert inspect.ismethod(model.forward)
    for arguments, message in (
        ({"loss": losses.MultipleNegativesRankingLoss(other)}, "is not a loss over the given model"),
        ({"loss": losses.AdaptiveLayerLoss(model, ranking)}, "put it around QuantizationAwareLoss"),
        ({"precisions": ("int8", "int3")}, "'int3' is unknown"),
        ({"precisions": "int8"}, "expected a tuple without repetitions"),
        ({"precisions": ("int8", "int8")}, "expected a tuple without repetitions"),
        ({"weights": (1, 1)}, "expected one for each of float32, int8, binary"),
        ({"weights": (1, 1, -1)}, "at least 0"),
        ({"calibration": RangeMethod("quantile")}, "in training use rolling, minmax or fixed"),
        ({"schedule": staged({"float32": 5, "int8": 5, "binary": 9})}, "no precision has a weight at step 0"),
    ):
        with pytest.raises(InputError, match=message):
            QuantizationAwareLoss(**{"model": model, "loss": ranking, **arguments})
