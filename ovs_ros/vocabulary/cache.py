"""A cache of embeddings on disk, so that each word is encoded once per machine."""

import hashlib
import json
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ovs_ros.runtime.cache_directory import CACHE_VARIABLE, default_directory
from ovs_ros.runtime.files import write_atomically

logger = logging.getLogger(__name__)

FILE_NAME = "embeddings.sqlite3"
# SQLite before 3.32 takes at most 999 variables in a statement.
_KEYS_A_QUERY = 900
_LOCK_SECONDS = 10.0


def content_key(encoder_name: str, texts: Sequence[str]) -> bytes:
    """What an embedding is kept under: 32 bytes from the encoder's name and the texts that it averages."""
    return hashlib.sha256(json.dumps([encoder_name, *texts]).encode()).digest()


class EmbeddingCache:
    """Unit vectors by content key, in memory and in one SQLite file.

    Several processes and threads may share the file: each call is one transaction. A file that is no
    database is replaced by the next `put`, a vector that is damaged counts as missing. Where the file cannot
    be read or written, a warning says so once, and memory alone serves.

    Args:
        directory: where the file lies, made when it is missing; None: `default_directory()`.
    """

    def __init__(self, directory: Path | str | None = None) -> None:
        self.path = (default_directory() if directory is None else Path(directory)) / FILE_NAME
        self._memory: dict[bytes, NDArray[np.float32]] = {}
        self._readable = True
        self._writable = True

    def get(self, keys: Sequence[bytes], dim: int) -> dict[bytes, NDArray[np.float32]]:
        """Those of the keys that are known: key -> (dim,) float32 unit vector, read-only."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._memory]
        for key, blob in self._read(missing):
            if isinstance(blob, bytes) and len(blob) == 4 * dim:
                vector = _vector(blob)
                if abs(float(vector @ vector) - 1) < 1e-3:
                    self._memory[key] = vector
        known = {key: self._memory[key] for key in keys if key in self._memory}
        return {key: vector for key, vector in known.items() if vector.shape == (dim,)}

    def put(self, vectors: Mapping[bytes, NDArray[np.float32]]) -> None:
        """Keep vectors (D,) float32 of unit norm under their keys, in place of what was there."""
        blobs = {key: vector.astype("<f4").tobytes() for key, vector in vectors.items()}
        for key, blob in blobs.items():
            self._memory[key] = _vector(blob)
        self._write(list(blobs.items()))

    def get_arrays(self, key: str) -> dict[str, NDArray[np.generic]] | None:
        """The arrays that were kept under a key; None where they are missing or damaged."""
        try:
            with np.load(self._arrays_file(key), allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, BadZipFile):
            return None

    def put_arrays(self, key: str, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Keep arrays in a file of their own, under a key that can be a file's name."""
        if not self._writable:
            return
        data = BytesIO()
        np.savez(data, **arrays)  # type: ignore[arg-type]  # its stub has no keywords
        path = self._arrays_file(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data.getvalue())
        except OSError as error:
            self._writable = False
            self._warn("written to", error)

    def _arrays_file(self, key: str) -> Path:
        return self.path.parent / "examples" / f"{key}.npz"

    def _read(self, keys: list[bytes]) -> list[tuple[bytes, object]]:
        rows: list[tuple[bytes, object]] = []
        try:
            if not keys or not self._readable or not self.path.exists():
                return rows
            with closing(self._connect()) as connection:
                for start in range(0, len(keys), _KEYS_A_QUERY):
                    part = keys[start : start + _KEYS_A_QUERY]
                    marks = ",".join("?" * len(part))
                    query = f"SELECT key, vector FROM embeddings WHERE key IN ({marks})"
                    rows += connection.execute(query, part).fetchall()
        except (OSError, sqlite3.OperationalError) as error:
            self._readable = False
            self._warn("read from", error)
        except sqlite3.DatabaseError as error:
            logger.warning("The embedding cache %s is damaged (%s); it is written afresh", self.path, error)
        return rows

    def _write(self, rows: list[tuple[bytes, bytes]]) -> None:
        if not rows or not self._writable:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._insert(rows)
            except sqlite3.OperationalError:
                raise  # Locked, full or not allowed: the file itself is sound.
            except sqlite3.DatabaseError:
                for path in (self.path, self.path.with_name(FILE_NAME + "-journal")):
                    path.unlink(missing_ok=True)
                self._insert(rows)
        except (OSError, sqlite3.Error) as error:
            self._writable = False
            self._warn("written to", error)

    def _insert(self, rows: list[tuple[bytes, bytes]]) -> None:
        with closing(self._connect()) as connection, connection:
            connection.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?)", rows)

    def _connect(self) -> sqlite3.Connection:
        # One connection a call: a connection may neither cross threads nor a fork.
        connection = sqlite3.connect(self.path, timeout=_LOCK_SECONDS)
        try:
            connection.execute("CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, vector BLOB)")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _warn(self, done: str, error: Exception) -> None:
        logger.warning(
            "The embedding cache %s cannot be %s (%s), so that words may be embedded again and again; "
            "set %s to a directory that can be written",
            self.path,
            done,
            error,
            CACHE_VARIABLE,
        )


def _vector(blob: bytes) -> NDArray[np.float32]:
    return np.frombuffer(blob, dtype="<f4").astype(np.float32, copy=False)
