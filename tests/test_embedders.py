"""Embedders of a database's collections: each is loaded once, and no thread waits for another one's model."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from qvec import Calibration
from qvec.client import embedders
from qvec.client.embedders import Embedders, embedding_of


def test_loading_one_model_does_not_block_another(monkeypatch: pytest.MonkeyPatch, calibration: Calibration) -> None:
    began, go_on = threading.Event(), threading.Event()

    def load(options: Any) -> Any:
        if options.model == "slow":
            began.set()
            go_on.wait(10)
        return options.model

    monkeypatch.setattr(embedders, "load_embedder", load)
    of_database, found = Embedders(), []

    def ask(model: str) -> None:
        collection: Any = SimpleNamespace(name="docs", model=model, embedding=None)
        found.append(of_database.load(embedding_of(collection, calibration)))

    ask("fast")
    threads = [threading.Thread(target=ask, args=[model]) for model in ("slow", "fast")]
    threads[0].start()
    assert began.wait(10)
    threads[1].start()
    threads[1].join(5)
    found_meanwhile = list(found)
    go_on.set()
    for thread in threads:
        thread.join()
    assert found_meanwhile == ["fast", "fast"]
    assert found == ["fast", "fast", "slow"]
