"""Collections of the embedded engine in a directory, which one process has open at a time.

That process holds DIR/qvec.lock. Each collection has a folder with its name, in which characters that file systems may
refuse are written as %XX:

- `collection.json` describes the collection,
- `loads.json` holds how far sources have been loaded,
- `versions.json` names the folder with the points of the version in use,
- `shard` is the engine's.

A folder without `collection.json` was never finished, and `create` starts again; a folder with any other file in it is
not qvec's, and `create` refuses it.
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
from qvec.qdrant.description import (
    Description,
    Fingerprint,
    UnmanagedCollection,
    fingerprint_of,
    not_one_vector,
)
from qvec.qdrant.vector_layout import VectorLayout
from qvec.qdrant.version_record import VersionRecord

if TYPE_CHECKING:
    from qvec.qdrant.edge import EdgeShard

_LOCK = "qvec.lock"
_DESCRIPTION = "collection.json"
_LOADS = "loads.json"
_VERSIONS = "versions.json"
_SHARD = "shard"
_CALIBRATION = "qvec-calibration.json"
"""Beside the engine's files: the id of the calibration that the vectors were stored with, whatever the description
says later."""
_ENGINE_CONFIG = "edge_config.json"
_ENGINE_FILES = {_ENGINE_CONFIG, _CALIBRATION, "segments", "wal"}

_open: dict[Path, Directory] = {}
_opening = Lock()


class Directory:
    """The collections in a directory, shared by all who open it in one process; the last to close it releases the lock.

    Its methods block.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.users = 0
        self.changes = 0
        self._process = os.getpid()
        self._lock = _take_lock(path)
        self._shards: dict[str, EdgeShard] = {}
        self._loading: set[tuple[str, str]] = set()
        self._mutex = Lock()

    @classmethod
    def open(cls, path: Path) -> Directory:
        """Open a directory, creating it where it is missing.

        Raise DatabaseError where another process has it open, MissingExtraError where the engine is not installed.
        """
        try:
            import qdrant_edge  # noqa: F401
        except ImportError:
            raise MissingExtraError("qdrant-edge-py", "embedded") from None
        with _opening:
            resolved = path.resolve()
            found = _open.get(resolved)
            if found is None or found.is_forked():
                found = _open[resolved] = cls(resolved)
            found.users += 1
            return found

    def close(self) -> None:
        """Close the shards when the last user closes."""
        with _opening:
            self.users -= 1
            if self.users or self.is_forked():
                return
            for shard in self._shards.values():
                shard.close()
            self._shards.clear()
            os.close(self._lock)
            _open.pop(self.path, None)

    def is_forked(self) -> bool:
        """Return whether this process was forked from the one that opened the directory."""
        return self._process != os.getpid()

    def names(self) -> list[str]:
        """Return the names of all collections, in order."""
        self._check_process()
        return sorted(unquote(file.parent.name) for file in self.path.glob(f"*/{_DESCRIPTION}"))

    def describe(self, name: str) -> Description | None:
        """Return the description of a collection; None where there is none of this name."""
        self._check_process()
        stored = _read(self._folder(name) / _DESCRIPTION, name)
        if stored is None:
            return None
        description = Description.from_json(stored, name)
        description.check_vectors(name, self._held(name))
        made_with = (_read(self._folder(name) / _SHARD / _CALIBRATION, name) or {}).get("calibration")
        if made_with not in (None, description.calibration.id):
            raise CollectionError(
                f"collection {name!r} was made with calibration {made_with}, but its description is of "
                f"{description.calibration.id}; restore the collection.json that belongs to it"
            )
        return description

    def create(self, name: str, description: Description) -> None:
        """Create a collection; it exists once its description does."""
        with self._mutex:
            self._check_process()
            folder = self._folder(name)
            self._clear(folder, name)
            self._open_shard(name, description.layout)
            _write(folder / _SHARD / _CALIBRATION, {"calibration": description.calibration.id})
            _write(folder / _DESCRIPTION, description.to_json())
            self.changes += 1

    def replace_description(self, name: str, description: Description) -> None:
        """Store another description of a collection. Raise CollectionError where it was dropped."""
        with self._mutex:
            self._check_process()
            file = self._folder(name) / _DESCRIPTION
            if not file.exists():
                raise CollectionError(f"collection {name!r} was dropped")
            _write(file, description.to_json())

    def read_record(self, name: str) -> VersionRecord | None:
        """Return the version record of a collection; None where it was never recalibrated."""
        self._check_process()
        folder = self._folder(name)
        stored = _read(folder / _VERSIONS, name) if (folder / _DESCRIPTION).exists() else None
        return None if stored is None else VersionRecord.from_json(stored, name)

    def peek(self, name: str) -> tuple[VersionRecord | None, Fingerprint | None]:
        """Return version record and fingerprint of a collection, None for what does not exist."""
        self._check_process()
        folder = self._folder(name)
        described = _read(folder / _DESCRIPTION, name)
        stored = None if described is None else _read(folder / _VERSIONS, name)
        return None if stored is None else VersionRecord.from_json(stored, name), fingerprint_of(described)

    def write_record(self, name: str, record: VersionRecord) -> None:
        """Store the version record in one write. Raise CollectionError where the collection was dropped."""
        with self._mutex:
            self._check_process()
            if not (self._folder(name) / _DESCRIPTION).exists():
                raise CollectionError(f"collection {name!r} was dropped")
            _write(self._folder(name) / _VERSIONS, record.to_json())

    def _clear(self, folder: Path, name: str) -> None:
        """Remove a collection that was never finished. Raise CollectionError for a folder that is not qvec's."""
        self._close_shard(name)
        if not _is_absent_or_unfinished(folder):
            raise CollectionError(f"{folder} holds something that qvec did not make; choose another collection name")
        shutil.rmtree(folder, ignore_errors=True)

    def opened_shard(self, name: str) -> EdgeShard | None:
        """Return the shard of a collection if it is open; this does not block."""
        self._check_process()
        return self._shards.get(name)

    def shard(self, name: str, layout: VectorLayout) -> EdgeShard:
        """Return the shard of a collection, opened once for all users. Raise CollectionError where it was dropped."""
        with self._mutex:
            self._check_process()
            if not self._shard_path(name).exists():
                raise CollectionError(f"collection {name!r} was dropped")
            return self._open_shard(name, layout)

    def _open_shard(self, name: str, layout: VectorLayout) -> EdgeShard:
        from qvec.qdrant.edge import EdgeShard

        if name not in self._shards:
            self._shards[name] = EdgeShard(self._shard_path(name), layout)
        return self._shards[name]

    def _close_shard(self, name: str) -> None:
        shard = self._shards.pop(name, None)
        if shard is not None:
            shard.close()

    def _shard_path(self, name: str) -> Path:
        """Return the folder of the engine's files: of a collection that qvec did not make, its own folder."""
        folder = self._folder(name)
        return folder if (folder / _ENGINE_CONFIG).exists() else folder / _SHARD

    def unmanaged(self, name: str) -> UnmanagedCollection | None:
        """Return what the engine's files say about a collection; None where there is none.

        Raise CollectionError unless its points have one unnamed vector.
        """
        return self._held(name)

    def _held(self, name: str) -> UnmanagedCollection | None:
        config = _read(self._shard_path(name) / _ENGINE_CONFIG, name)
        if config is None:
            return None
        vectors = config["vectors"].get("")
        if vectors is None or vectors.get("multivector_config"):
            raise not_one_vector(name)
        return UnmanagedCollection(vectors["size"], vectors["distance"].lower(), vectors.get("datatype") or "float32")

    def drop(self, name: str) -> None:
        with self._mutex:
            self._check_process()
            self._close_shard(name)
            folder = self._folder(name)
            (folder / _DESCRIPTION).unlink()
            self.changes += 1
            shutil.rmtree(folder)

    def read_loads(self, name: str) -> dict[str, Any]:
        """Return the stored loads of a collection, by source. Raise CollectionError where it was dropped."""
        if not (self._folder(name) / _DESCRIPTION).exists():
            raise CollectionError(f"collection {name!r} was dropped")
        return _read(self._folder(name) / _LOADS, name) or {}

    def read_load(self, name: str, source: str) -> dict[str, Any] | None:
        """Return one stored load. Raise CollectionError where the collection was dropped."""
        load: dict[str, Any] | None = self.read_loads(name).get(source)
        return load

    def write_load(self, name: str, source: str, load: dict[str, Any] | None) -> None:
        """Store how far a source is loaded, or delete that (None); durable when this returns."""
        with self._mutex:
            loads = self.read_loads(name)
            loads.pop(source, None)
            _write(self._folder(name) / _LOADS, loads if load is None else {**loads, source: load})

    @contextmanager
    def load_lock(self, name: str, source: str) -> Iterator[None]:
        """Hold the lock on loading a source. Raise DatabaseError where another thread holds it."""
        with self._mutex:
            if (name, source) in self._loading:
                raise DatabaseError(f"another thread is loading {source} into collection {name!r}")
            self._loading.add((name, source))
        try:
            yield
        finally:
            self._loading.discard((name, source))

    @contextmanager
    def registry_lock(self) -> Iterator[None]:
        """Let one load at a time start."""
        with self._mutex:
            yield

    def _folder(self, name: str) -> Path:
        encoded = quote(name, safe=" ()+,;=@[]{}")
        if encoded.startswith(".") or encoded == _LOCK:
            encoded = f"%{ord(encoded[0]):02X}{encoded[1:]}"
        return self.path / encoded

    def _check_process(self) -> None:
        if self.is_forked():
            raise DatabaseError(
                f"{self.path} was opened before this process was forked; connect again in the process that uses it"
            )


def _take_lock(path: Path) -> int:
    """Return an open file that holds the directory's lock.

    The lock ends with the process, however that ends, and with those that were forked from it: they also hold the locks
    of the engine's own files.
    """
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
    """Return whether a folder holds no more than an interrupted creation or drop leaves behind."""
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
    return left and {name for name in names if not name.startswith(f".{_CALIBRATION}.")} <= _ENGINE_FILES


def _read(path: Path, name: str) -> Any:
    """Return the JSON object in a file of the collection `name`; None where there is no file."""
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
    """Write JSON to a file durably, the whole or nothing."""
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
