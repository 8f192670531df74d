"""A cache of embeddings on disk, so that each word is encoded once per machine."""

import hashlib
import json
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from io import BytesIO
from pathlib import Path
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from ovs_ros.runtime.cache_directory import CACHE_VARIABLE, default_directory
from ovs_ros.runtime.files import read_file, write_atomically

logger = logging.getLogger(__name__)

FILE_NAME = "embeddings.sqlite3"
LOCK_S = 1.0
"""How long a call waits for another process that writes."""
RETRY_S = 30.0
"""How long the file is left alone after it could not be read or written."""
# SQLite before 3.32 takes at most 999 variables in a statement.
_KEYS_A_QUERY = 900
_DAMAGED = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What sqlite3 raises over a damaged file; the second where it cannot read its own message."""
_ROW_DIGEST, _FILE_DIGEST = 8, 32
"""Bytes of the checksum behind a vector, and before the arrays in a file."""


def content_key(encoder_name: str, texts: Sequence[str]) -> bytes:
    """What an embedding is kept under: 32 bytes from the encoder's name and the texts that it averages."""
    return hashlib.sha256(json.dumps([encoder_name, *texts]).encode()).digest()


class EmbeddingCache:
    """Unit vectors by content key, in memory and in one SQLite file.

    Several processes and threads may share the file: each call is one transaction. Every vector has a
    checksum: one that is damaged counts as missing. A file that is no database is replaced by the next `put`.
    Where the file cannot be read or written, because it is locked or the disk is full, a warning says so once
    and memory alone serves; after `RETRY_S` it is tried again, with what could not be written.

    Args:
        directory: where the file lies, made when it is missing; None: `default_directory()`.

    Attributes:
        problem: why the file could not be used when it was last tried, for diagnostics; empty: it could be.
    """

    def __init__(self, directory: Path | str | None = None) -> None:
        self.path = (default_directory() if directory is None else Path(directory)) / FILE_NAME
        self.problem = ""
        self._memory: dict[bytes, NDArray[np.float32]] = {}
        self._unsaved: set[bytes] = set()
        self._next_try = 0.0

    def get(self, keys: Sequence[bytes], dim: int) -> dict[bytes, NDArray[np.float32]]:
        """Those of the keys that are known: key -> (dim,) float32 unit vector, read-only."""
        self._save()
        missing = [key for key in dict.fromkeys(keys) if key not in self._memory]
        for key, row in self._read(missing):
            if isinstance(row, bytes) and len(row) == 4 * dim + _ROW_DIGEST:
                blob, digest = row[:-_ROW_DIGEST], row[-_ROW_DIGEST:]
                if digest == _row_digest(key, blob):
                    self._memory[key] = _vector(blob)
        known = {key: self._memory[key] for key in keys if key in self._memory}
        return {key: vector for key, vector in known.items() if vector.shape == (dim,)}

    def put(self, vectors: Mapping[bytes, NDArray[np.float32]]) -> None:
        """Keep vectors (D,) float32 of unit norm under their keys, in place of what was there."""
        for key, vector in vectors.items():
            self._memory[key] = _vector(vector.astype("<f4").tobytes())
        self._unsaved.update(vectors)
        self._save()

    def get_arrays(self, key: str) -> dict[str, NDArray[np.generic]] | None:
        """The arrays that were kept under a key; None where they are missing or damaged."""
        try:
            data = read_file(self._arrays_file(key))
        except (OSError, ValueError):
            return None
        digest, content = data[:_FILE_DIGEST], data[_FILE_DIGEST:]
        if digest != hashlib.sha256(content).digest():
            return None
        with np.load(BytesIO(content), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}

    def put_arrays(self, key: str, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Keep arrays in a file of their own, under a key that can be a file's name."""
        if monotonic() < self._next_try:
            return
        data = BytesIO()
        np.savez(data, **arrays)  # type: ignore[arg-type]  # its stub has no keywords
        content = data.getvalue()
        path = self._arrays_file(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, hashlib.sha256(content).digest() + content)
        except OSError as error:
            self._failed("written to", error)

    def _arrays_file(self, key: str) -> Path:
        return self.path.parent / "examples" / f"{key}.arrays"

    def _read(self, keys: list[bytes]) -> list[tuple[bytes, object]]:
        rows: list[tuple[bytes, object]] = []
        try:
            if not keys or monotonic() < self._next_try or not self.path.exists():
                return rows
            with closing(self._connect()) as connection:
                for start in range(0, len(keys), _KEYS_A_QUERY):
                    part = keys[start : start + _KEYS_A_QUERY]
                    marks = ",".join("?" * len(part))
                    query = f"SELECT key, vector FROM embeddings WHERE key IN ({marks})"
                    rows += connection.execute(query, part).fetchall()
            self.problem = ""
        except (OSError, sqlite3.OperationalError) as error:
            self._failed("read from", error)
        except _DAMAGED as error:
            logger.warning("The embedding cache %s is damaged (%s); it is written afresh", self.path, error)
        return [(key, row) for key, row in rows if isinstance(key, bytes)]

    def _save(self) -> None:
        """Write what is not yet in the file, unless it is left alone for now."""
        keys = list(self._unsaved)
        if not keys or monotonic() < self._next_try:
            return
        rows = []
        for key in keys:
            blob = self._memory[key].astype("<f4").tobytes()
            rows.append((key, blob + _row_digest(key, blob)))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._insert(rows)
            except sqlite3.OperationalError:
                raise  # Locked, full or not allowed: the file itself is sound.
            except _DAMAGED:
                for path in (self.path, self.path.with_name(FILE_NAME + "-journal")):
                    path.unlink(missing_ok=True)
                self._insert(rows)
        except (OSError, sqlite3.Error, UnicodeDecodeError) as error:
            self._failed("written to", error)
        else:
            self._unsaved.difference_update(keys)
            self.problem = ""

    def _insert(self, rows: list[tuple[bytes, bytes]]) -> None:
        with closing(self._connect()) as connection, connection:
            connection.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?)", rows)

    def _connect(self) -> sqlite3.Connection:
        # One connection a call: a connection may neither cross threads nor a fork.
        connection = sqlite3.connect(self.path, timeout=LOCK_S)
        try:
            connection.execute("CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, vector BLOB)")
        except (sqlite3.Error, UnicodeDecodeError):
            connection.close()
            raise
        return connection

    def _failed(self, done: str, error: Exception) -> None:
        """Leave the file alone for a while, and say why, once."""
        self._next_try = monotonic() + RETRY_S
        known, self.problem = self.problem, f"the embedding cache {self.path} cannot be {done} ({error})"
        if not known:
            logger.warning(
                "The embedding cache %s cannot be %s (%s), so that words may be embedded again. The "
                "next change of words after %.0f s tries it again; if that fails, set %s to a directory that "
                "can be written",
                self.path,
                done,
                error,
                RETRY_S,
                CACHE_VARIABLE,
            )


def _row_digest(key: bytes, blob: bytes) -> bytes:
    """A checksum of a vector and of the key that it is kept under."""
    return hashlib.blake2b(key + blob, digest_size=_ROW_DIGEST).digest()


def _vector(blob: bytes) -> NDArray[np.float32]:
    return np.frombuffer(blob, dtype="<f4").astype(np.float32, copy=False)
