"""Embedders of a database: each is loaded once, and loading one does not block the use of another."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from qvec import Calibration
from qvec.client import embedders
from qvec.client.embedders import Embedders, embedding_of


def test_loading_one_model_does_not_block_another(monkeypatch: pytest.MonkeyPatch, calibration: Calibration) -> None:
    started, finish_loading = threading.Event(), threading.Event()

    def load(options: Any) -> Any:
        if options.model == "slow":
            started.set()
            finish_loading.wait(10)
        return options.model

    monkeypatch.setattr(embedders, "load_embedder", load)
    cache, found = Embedders(), []

    def load_for_collection(model: str) -> None:
        collection: Any = SimpleNamespace(name="docs", model=model, embedding=None)
        found.append(cache.load(embedding_of(collection, calibration)))

    load_for_collection("fast")
    threads = [threading.Thread(target=load_for_collection, args=[model]) for model in ("slow", "fast")]
    threads[0].start()
    assert started.wait(10)
    threads[1].start()
    threads[1].join(5)
    found_meanwhile = list(found)
    finish_loading.set()
    for thread in threads:
        thread.join()
    assert found_meanwhile == ["fast", "fast"]
    assert found == ["fast", "fast", "slow"]
