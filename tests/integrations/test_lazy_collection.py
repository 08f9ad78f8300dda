"""LazyCollection: the collection of a framework's store, opened or created when it is first needed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from databases import Store

from qvec import Calibration, CollectionError
from qvec.integrations.adapters import delete_matching
from qvec.integrations.lazy_collection import LazyCollection
from qvec.model_folder import save_calibration

VECTORS = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)


def test_several_threads_create_one_collection(store: Store) -> None:
    lazies = [LazyCollection(store.database, store.new_name())] * 4
    lazies += [LazyCollection(store.database, lazies[0].name) for _ in range(2)]
    created: list[Any] = []
    threads = [
        threading.Thread(target=lambda lazy=lazy: created.append(lazy.get_or_create(VECTORS))) for lazy in lazies
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [collection.name for collection in created] == [lazies[0].name] * 6
    assert len({collection.calibration for collection in created}) == 1


def test_collection_created_meanwhile_by_another_process(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calibration = Calibration.fit(VECTORS)
    name = store.create(calibration, id_type="text").name
    late = LazyCollection(store.database, name)
    answers = iter([False])
    has_collection = store.database.has_collection
    monkeypatch.setattr(store.database, "has_collection", lambda name: next(answers, None) or has_collection(name))
    monkeypatch.setattr(late, "get", _once(None, late.get))
    assert late.get_or_create(VECTORS).calibration == calibration


def _once(first: Any, then: Any) -> Any:
    """Return a function that returns `first` on its first call, then calls `then`."""
    calls = iter([lambda: first])
    return lambda: next(calls, then)()


def test_invalid_collection_name(store: Store) -> None:
    with pytest.raises(CollectionError, match="collection name"):
        LazyCollection(store.database, "").get_or_create(VECTORS)


def test_calibration_is_read_from_model_folder(store: Store, tmp_path: Path) -> None:
    calibration = Calibration.fit(VECTORS, model=str(tmp_path))
    save_calibration(calibration, tmp_path)
    found = LazyCollection(store.database, store.new_name(), model=str(tmp_path)).get_or_create(VECTORS[:1])
    assert (found.calibration, found.model) == (calibration, str(tmp_path))


def test_database_reopens_after_close(store: Store, tmp_path: Path) -> None:
    lazy = LazyCollection(store.new_url(tmp_path), store.new_name())
    made = lazy.get_or_create(VECTORS)
    assert lazy.get() is made
    lazy.close()
    lazy.close()
    again = lazy.get()
    assert again is not None
    assert again.calibration == made.calibration
    lazy.close()


def test_delete_by_filter(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvec.integrations.adapters._DELETE_BATCH", 30)
    collection: Any = store.create(Calibration.fit(VECTORS))
    collection.upsert(range(200), VECTORS, metadata=[{"odd": row % 2 == 1} for row in range(200)])
    assert delete_matching(collection, {"odd": True}) == 100
    assert collection.count() == 100
    assert delete_matching(collection) == 100
    assert delete_matching(collection) == 0


def test_recreated_collection_is_opened_again(store: Store) -> None:
    """The first call after a drop fails and the next opens the new collection, but not if one was passed open."""
    lazy = LazyCollection(store.database, store.new_name())
    old = lazy.get_or_create(VECTORS)
    old.upsert(["a"], VECTORS[:1])
    passed_open = LazyCollection.from_open(old)
    for recreated in (None, Calibration.fit(3 * VECTORS - 1)):
        held = lazy.get_or_create(VECTORS)
        store.database.drop_collection(lazy.name)
        if recreated is not None:
            store.database.create_collection(lazy.name, calibration=recreated, id_type="text")
        assert lazy.get() is held
        with pytest.raises(
            CollectionError, match="was dropped and created again" if recreated else "was dropped since it was"
        ):
            held.search(VECTORS[0])
        found = lazy.get()
        assert (found and found.calibration) == recreated
    with pytest.raises(CollectionError, match="open it again"):
        passed_open.get_or_create(VECTORS).upsert(["a"], VECTORS[:1])
    assert passed_open.get() is old
