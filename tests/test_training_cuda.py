"""The torch quantizers give the same bits on CUDA as on a CPU; skipped without a CUDA device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qvec
from qvec import Calibration

torch = pytest.importorskip("torch")

from qvec.training import dequantize_embeddings, quantize_embeddings, quantize_ste  # noqa: E402
from qvec.training.scoring import Scorer  # noqa: E402

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: equality there is not tested")

PRECISIONS = ["int8", "int4", "ternary", "binary"]


def sample(dimensions: int, metric: Any) -> tuple[Any, Calibration]:
    rows = np.random.default_rng(dimensions).normal(0.1, 1.2, (3_000, dimensions)).astype(np.float32)
    return rows, Calibration.fit(rows[:1_000], metric=metric)


@pytest.mark.parametrize("metric", ["cosine", "ip"])
@pytest.mark.parametrize("dimensions", [1, 7, 129, 384, 1_024])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_cuda_codes_equal_stored_codes(precision: str, dimensions: int, metric: str) -> None:
    rows, calibration = sample(dimensions, metric)
    codes = quantize_embeddings(torch.from_numpy(rows).cuda(), calibration, precision)
    assert codes.device.type == "cuda"
    whole = qvec.quantize(rows, calibration)
    stored = qvec.ternary(whole, calibration) if precision == "ternary" else whole[:, : codes.shape[1]]
    np.testing.assert_array_equal(codes.cpu().numpy(), stored)
    decoded = dequantize_embeddings(codes, calibration, precision).cpu()
    assert torch.equal(decoded, dequantize_embeddings(codes.cpu(), calibration, precision))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_cuda_straight_through_estimator_equals_cpu(precision: str) -> None:
    rows, calibration = sample(384, "ip")
    found = {}
    for device in ("cpu", "cuda"):
        leaf = torch.from_numpy(rows).to(device).requires_grad_()
        value = quantize_ste(leaf, calibration, precision)
        value.backward(torch.ones_like(value))
        found[device] = value.detach().cpu(), leaf.grad.cpu()
    assert torch.equal(found["cpu"][0], found["cuda"][0])
    assert torch.equal(found["cpu"][1], found["cuda"][1])


@pytest.mark.parametrize("scorer", [Scorer("int8"), Scorer("binary"), Scorer("ternary", "ternary")])
def test_cuda_scores_equal_cpu(scorer: Scorer) -> None:
    rows, calibration = sample(384, "cosine")
    queries, documents = (calibration.prepared(part) for part in (rows[:20], rows[20:500]))
    on_cpu, on_cuda = (
        scorer.scores(*(torch.from_numpy(side).to(device) for side in (queries, documents)), calibration).cpu()
        for device in ("cpu", "cuda")
    )
    torch.testing.assert_close(on_cpu, on_cuda, rtol=1e-5, atol=1e-5)
