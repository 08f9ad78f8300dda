"""Collections of the embedded engine in a directory, which one process has open at a time.

DIR/qvec.lock is held by that process. Each collection has a folder, named as it is with what file systems may not take
written as %XX: `collection.json` describes it, `loads.json` tells how far sources have been loaded, `versions.json`
which folder has the points of the version in use, `shard` is the engine's. A folder without `collection.json` was
never finished, and is begun anew; one with anything else in it is not qvec's, and stays as it is.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from qvec.errors import CollectionError, DatabaseError, MissingExtraError
from qvec.forking import Lock
from qvec.qdrant.description import Description, Foreign, Mark, mark_of, not_one_vector
from qvec.qdrant.layout import Layout, Sharding
from qvec.qdrant.steps import at_once
from qvec.qdrant.versioning import Record

if TYPE_CHECKING:
    from qvec.qdrant.edge import EdgeEngine

_LOCK = "qvec.lock"
_DESCRIPTION = "collection.json"
_LOADS = "loads.json"
_VERSIONS = "versions.json"
_SHARD = "shard"
_MADE_WITH = "qvec-calibration.json"
"""Beside the engine's files: the calibration that the vectors were stored with, whatever describes them later."""
_ENGINE_CONFIG = "edge_config.json"
_ENGINE_FILES = {_ENGINE_CONFIG, _MADE_WITH, "segments", "wal"}

_open: dict[Path, Directory] = {}
_opening = Lock()


class Directory:
    """The collections in a directory. All who open it in one process share it; the last to close it lets it go."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.users = 0
        self.changes = 0
        self._process = os.getpid()
        self._lock = _take_lock(path)
        self._engines: dict[str, EdgeEngine] = {}
        self._loading: set[tuple[str, str]] = set()
        self._mutex = Lock()

    @classmethod
    def open(cls, path: Path) -> Directory:
        """Opens a directory, made where it is missing. Raises DatabaseError when another process has it open."""
        try:
            import qdrant_edge  # noqa: F401 - an extra
        except ImportError:
            raise MissingExtraError("qdrant-edge-py", "embedded") from None
        with _opening:
            resolved = path.resolve()
            found = _open.get(resolved)
            if found is None or found.is_foreign():
                found = _open[resolved] = cls(resolved)
            found.users += 1
            return found

    def close(self) -> None:
        """Closes the engines when the last user closes."""
        with _opening:
            self.users -= 1
            if self.users or self.is_foreign():
                return
            for engine in self._engines.values():
                engine.close()
            self._engines.clear()
            os.close(self._lock)
            _open.pop(self.path, None)

    def is_foreign(self) -> bool:
        """Whether this process was forked from the one that opened the directory."""
        return self._process != os.getpid()

    @at_once
    def names(self) -> list[str]:
        """Collections, by name."""
        self._check_process()
        return sorted(unquote(file.parent.name) for file in self.path.glob(f"*/{_DESCRIPTION}"))

    @at_once
    def describe(self, name: str) -> Description | None:
        """What is written down of a collection; None when there is none of this name."""
        self._check_process()
        stored = _read(self._folder(name) / _DESCRIPTION, name)
        if stored is None:
            return None
        description = Description.from_json(stored, name)
        description.check_vectors(name, self._held(name))
        made_with = (_read(self._folder(name) / _SHARD / _MADE_WITH, name) or {}).get("calibration")
        if made_with not in (None, description.calibration.id):
            raise CollectionError(
                f"collection {name!r} was made with calibration {made_with}, but its description is of "
                f"{description.calibration.id}; put back the collection.json that belongs to it"
            )
        return description

    @at_once
    def create(self, name: str, description: Description) -> None:
        """Makes a collection: it is there once its description is."""
        with self._mutex:
            self._check_process()
            folder = self._folder(name)
            self._clear(folder, name)
            self._engine(name, description.layout)
            _write(folder / _SHARD / _MADE_WITH, {"calibration": description.calibration.id})
            _write(folder / _DESCRIPTION, description.to_json())
            self.changes += 1

    @at_once
    def describe_anew(self, name: str, description: Description) -> None:
        """Writes another description of a collection. Raises CollectionError when it is dropped."""
        with self._mutex:
            self._check_process()
            file = self._folder(name) / _DESCRIPTION
            if not file.exists():
                raise CollectionError(f"collection {name!r} was dropped")
            _write(file, description.to_json())

    @at_once
    def read_versions(self, name: str) -> Record | None:
        """What is written down of a collection's versions; None where it was never recalibrated."""
        self._check_process()
        folder = self._folder(name)
        stored = _read(folder / _VERSIONS, name) if (folder / _DESCRIPTION).exists() else None
        return None if stored is None else Record.from_json(stored, name)

    @at_once
    def glance(self, name: str) -> tuple[Record | None, Mark | None]:
        """Its versions, and the mark of its description; None for what is not there."""
        self._check_process()
        folder = self._folder(name)
        described = _read(folder / _DESCRIPTION, name)
        stored = None if described is None else _read(folder / _VERSIONS, name)
        return None if stored is None else Record.from_json(stored, name), mark_of(described)

    @at_once
    def write_versions(self, name: str, record: Record) -> None:
        """Writes it down at once. Raises CollectionError when the collection is dropped."""
        with self._mutex:
            self._check_process()
            if not (self._folder(name) / _DESCRIPTION).exists():
                raise CollectionError(f"collection {name!r} was dropped")
            _write(self._folder(name) / _VERSIONS, record.to_json())

    def _clear(self, folder: Path, name: str) -> None:
        """Removes a collection that was never finished. Raises CollectionError for what is none of qvec's."""
        engine = self._engines.pop(name, None)
        if engine:
            engine.close()
        if not _is_absent_or_unfinished(folder):
            raise CollectionError(f"{folder} holds something that qvec did not make; choose another collection name")
        shutil.rmtree(folder, ignore_errors=True)

    def engine(self, name: str, layout: Layout, sharding: Sharding) -> EdgeEngine:  # noqa: ARG002 - one shard
        """The engine of a collection, opened once for all who use it. Raises CollectionError when it was dropped."""
        self._check_process()
        opened = self._engines.get(name)
        if opened is not None:
            return opened
        with self._mutex:
            if not self._shard(name).exists():
                raise CollectionError(f"collection {name!r} was dropped")
            return self._engine(name, layout)

    def _engine(self, name: str, layout: Layout) -> EdgeEngine:
        from qvec.qdrant.edge import EdgeEngine

        if name not in self._engines:
            self._engines[name] = EdgeEngine(self._shard(name), layout)
        return self._engines[name]

    def _shard(self, name: str) -> Path:
        """Where the engine's files are: of a collection that qvec did not make, in the folder itself."""
        folder = self._folder(name)
        return folder if (folder / _ENGINE_CONFIG).exists() else folder / _SHARD

    @at_once
    def foreign(self, name: str) -> Foreign | None:
        """What the engine's files say that a collection holds; None when there is none.

        Raises CollectionError when it is not one unnamed vector a point.
        """
        return self._held(name)

    def _held(self, name: str) -> Foreign | None:
        config = _read(self._shard(name) / _ENGINE_CONFIG, name)
        if config is None:
            return None
        vectors = config["vectors"].get("")
        if vectors is None or vectors.get("multivector_config"):
            raise not_one_vector(name)
        return Foreign(vectors["size"], vectors["distance"].lower(), vectors.get("datatype") or "float32")

    @at_once
    def drop(self, name: str) -> None:
        with self._mutex:
            self._check_process()
            engine = self._engines.pop(name, None)
            if engine:
                engine.close()
            folder = self._folder(name)
            (folder / _DESCRIPTION).unlink()
            self.changes += 1
            shutil.rmtree(folder)

    @at_once
    def read_loads(self, name: str) -> dict[str, Any]:
        """What is written down of a collection's loads, by source. Raises CollectionError when it is dropped."""
        return self._loads(name)

    def _loads(self, name: str) -> dict[str, Any]:
        if not (self._folder(name) / _DESCRIPTION).exists():
            raise CollectionError(f"collection {name!r} was dropped")
        return _read(self._folder(name) / _LOADS, name) or {}

    @at_once
    def read_load(self, name: str, source: str) -> dict[str, Any] | None:
        """What is written down of one load. Raises CollectionError when the collection is dropped."""
        load: dict[str, Any] | None = self._loads(name).get(source)
        return load

    @at_once
    def write_load(self, name: str, source: str, load: dict[str, Any] | None) -> None:
        """Writes down how far a source is loaded, None to forget it; it is on disk when this returns."""
        with self._mutex:
            loads = self._loads(name)
            loads.pop(source, None)
            _write(self._folder(name) / _LOADS, loads if load is None else {**loads, source: load})

    @contextmanager
    def loading(self, name: str, source: str) -> Iterator[None]:
        """The right to load a source. Raises DatabaseError when another thread has it."""
        with self._mutex:
            if (name, source) in self._loading:
                raise DatabaseError(f"another thread is loading {source} into collection {name!r}")
            self._loading.add((name, source))
        try:
            yield
        finally:
            self._loading.discard((name, source))

    @contextmanager
    def starting(self, name: str) -> Iterator[None]:  # noqa: ARG002 - one collection or another
        """Lets one load at a time begin."""
        with self._mutex:
            yield

    def _folder(self, name: str) -> Path:
        encoded = quote(name, safe=" ()+,;=@[]{}")
        if encoded.startswith(".") or encoded == _LOCK:
            encoded = f"%{ord(encoded[0]):02X}{encoded[1:]}"
        return self.path / encoded

    def _check_process(self) -> None:
        if self.is_foreign():
            raise DatabaseError(
                f"{self.path} was opened before this process was forked; connect again in the process that uses it"
            )


def _take_lock(path: Path) -> int:
    """An open file that holds the directory's lock; it goes with the process, however that ends, and with those that
    were forked from it: they hold the locks of the engine's own files as well."""
    import fcntl

    try:
        path.mkdir(parents=True, exist_ok=True)
        file = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise DatabaseError(f"cannot open {path}: {error.strerror}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(file, 20, 0).decode(errors="replace").strip()
        os.close(file)
        raise DatabaseError(
            f"{path} is open in another process{' (' + holder + ', or one forked from it)' if holder else ''}; the "
            "embedded Qdrant engine serves one process at a time, a server any number: qdrant://HOST:6334"
        ) from None
    os.ftruncate(file, 0)
    os.pwrite(file, f"pid {os.getpid()}\n".encode(), 0)
    return file


def _is_absent_or_unfinished(folder: Path) -> bool:
    """Whether there is no more in a folder than what a creation or a drop that was interrupted leaves behind."""
    try:
        files = list(folder.iterdir())
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False
    kept = (_SHARD, _LOADS, _VERSIONS)
    left = all(file.name in kept or file.name.startswith(f".{_DESCRIPTION}.") for file in files)
    shard = folder / _SHARD
    names = {file.name for file in shard.iterdir()} if shard.is_dir() else set()
    return left and {name for name in names if not name.startswith(f".{_MADE_WITH}.")} <= _ENGINE_FILES


def _read(path: Path, name: str) -> Any:
    """The JSON object in a file of the collection `name`; None when there is no file."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise CollectionError(f"collection {name!r} is damaged: cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise CollectionError(f"collection {name!r} is damaged: {path} holds {type(value).__name__}, expected dict")
    return value


def _write(path: Path, value: Any) -> None:
    """Writes JSON to a file: whole and on disk or, when that fails, not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(value, file, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise DatabaseError(f"cannot write {path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
