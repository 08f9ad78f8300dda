"""The collection behind a framework's store."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from databases import Store

from qvec import Calibration, CollectionError
from qvec.integrations.rows import delete_matching
from qvec.integrations.target import Target
from qvec.model_folder import save_calibration

VECTORS = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)


def test_several_threads_create_one_collection(store: Store) -> None:
    targets = [Target(store.database, store.new_name())] * 4  # type: ignore[arg-type]
    targets += [Target(store.database, targets[0].name), Target(store.database, targets[0].name)]  # type: ignore[arg-type]
    found: list[Any] = []
    threads = [threading.Thread(target=lambda t=t: found.append(t.for_vectors(VECTORS))) for t in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [collection.name for collection in found] == [targets[0].name] * 6
    assert len({collection.calibration for collection in found}) == 1


def test_another_process_may_create_it_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calibration = Calibration.fit(VECTORS)
    name = store.create(calibration, id_type="text").name
    late = Target(store.database, name)  # type: ignore[arg-type]
    answers = iter([False])
    has_collection = store.database.has_collection
    monkeypatch.setattr(store.database, "has_collection", lambda name: next(answers, None) or has_collection(name))
    monkeypatch.setattr(late, "found", _once(None, late.found))
    assert late.for_vectors(VECTORS).calibration == calibration


def _once(first: Any, then: Any) -> Any:
    """A function that returns `first`, and from the second call on what `then` does."""
    calls = iter([lambda: first])
    return lambda: next(calls, then)()


def test_a_collection_that_cannot_be_created(store: Store) -> None:
    with pytest.raises(CollectionError, match="collection name"):
        Target(store.database, "").for_vectors(VECTORS)  # type: ignore[arg-type]


def test_the_calibration_in_a_models_folder(store: Store, tmp_path: Path) -> None:
    calibration = Calibration.fit(VECTORS, model=str(tmp_path))
    save_calibration(calibration, tmp_path)
    found = Target(store.database, store.new_name(), model=str(tmp_path)).for_vectors(VECTORS[:1])  # type: ignore[arg-type]
    assert (found.calibration, found.model) == (calibration, str(tmp_path))


def test_a_url_is_opened_once_and_again_after_close(store: Store, tmp_path: Path) -> None:
    target = Target(store.elsewhere(tmp_path), store.new_name())
    made = target.for_vectors(VECTORS)
    assert target.found() is made
    target.close()
    target.close()
    again = target.found()
    assert again is not None
    assert again.calibration == made.calibration
    target.close()


def test_rows_are_deleted_by_filter(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvec.integrations.rows._AT_ONCE", 30)
    collection: Any = store.create(Calibration.fit(VECTORS))
    collection.upsert(range(200), VECTORS, metadata=[{"odd": row % 2 == 1} for row in range(200)])
    assert delete_matching(collection, {"odd": True}) == 100
    assert collection.count() == 100
    assert delete_matching(collection) == 100
    assert delete_matching(collection) == 0


def test_a_collection_that_was_made_anew_is_opened_again(store: Store) -> None:
    """Once a call has told so; one that was given open is its giver's."""
    target = Target(store.database, store.new_name())  # type: ignore[arg-type]
    old = target.for_vectors(VECTORS)
    old.upsert(["a"], VECTORS[:1])
    given = Target.of(old)
    for anew in (None, Calibration.fit(3 * VECTORS - 1)):
        held = target.for_vectors(VECTORS)
        store.database.drop_collection(target.name)
        if anew is not None:
            store.database.create_collection(target.name, calibration=anew, id_type="text")
        assert target.found() is held
        dropped = "was dropped and created again" if anew else "was dropped since it was"
        with pytest.raises(CollectionError, match=dropped):
            held.search(VECTORS[0])
        found = target.found()
        assert (found and found.calibration) == anew
    with pytest.raises(CollectionError, match="open it again"):
        given.for_vectors(VECTORS).upsert(["a"], VECTORS[:1])
    assert given.found() is old
