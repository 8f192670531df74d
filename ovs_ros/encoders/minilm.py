"""all-MiniLM-L6-v2, the embedded model's text encoder."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from ovs_ros.encoders.text_cleaning import reads
from ovs_ros.encoders.tokenizer_file import read_tokenizer
from ovs_ros.runtime.memory import give_back_memory
from ovs_ros.runtime.onnx import open_session
from ovs_ros.runtime.threads import let_others_go_first
from ovs_ros.vocabulary.text_encoder import is_latin

WIDTH = 384
LONGEST = 64
BATCH = 32
IDLE_S = 10.0
"""After so many seconds without texts the network is closed: it takes 80 MB, and 0.2 s to open."""


class SentenceEncoder:
    """all-MiniLM-L6-v2, run by ONNX Runtime.

    Args:
        models: the folder with `text_encoder.onnx` and `tokenizer.json`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged or another one.
    """

    def __init__(self, models: Path) -> None:
        self._path = models / "text_encoder.onnx"
        self._first: tuple[int, ...] = ()
        self._lock = threading.Lock()
        self._session: InferenceSession | None = None
        self._closing: threading.Timer | None = None
        self._opened()
        self._check_unchanged()
        self._tokenizer = read_tokenizer(models / "tokenizer.json")
        self._tokenizer.enable_truncation(LONGEST)
        self._tokenizer.no_padding()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts: (len(texts), 384) float32, rows of unit L2 norm; only the first 64 tokens count.

        Raises:
            FileNotFoundError, ValueError: the network was closed meanwhile, and its file is gone or another.
        """
        session = self._opened()
        out = np.empty((len(texts), WIDTH), np.float32)
        tokens = self._tokenizer.encode_batch(list(texts))
        # Texts of one length share a batch, so that little of it is padding.
        order = sorted(range(len(texts)), key=lambda i: len(tokens[i]))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            longest = len(tokens[batch[-1]])
            ids = np.zeros((len(batch), longest), np.int64)  # (B, L)
            mask = np.zeros((len(batch), longest), np.int32)  # (B, L)
            for row, text in enumerate(batch):
                own = tokens[text].ids
                ids[row, : len(own)], mask[row, : len(own)] = own, 1
            out[batch] = session.run(None, {"ids": ids, "mask": mask})[0]
        return out

    def _opened(self) -> InferenceSession:
        """The session, opened if it is not. It is closed when nobody has asked for it for a while."""
        with self._lock:
            if self._closing is not None:
                self._closing.cancel()
            if self._session is None:
                if self._first:
                    self._check_unchanged()
                # Its threads are those that it is opened with: they let frames go first.
                with ThreadPoolExecutor(1, initializer=let_others_go_first) as thread:
                    self._session = thread.submit(open_session, self._path, widen=True).result()
            self._closing = threading.Timer(IDLE_S, self._close)
            self._closing.daemon = True
            self._closing.start()
            return self._session

    def _check_unchanged(self) -> None:
        """Refuse another file than the one that was opened, and checked, at first."""
        status = self._path.stat()
        found = status.st_ino, status.st_size, status.st_mtime_ns
        if found != (self._first or found):
            raise ValueError(
                f"expected {self._path} as it was when the model was loaded, got one that was changed since; "
                "load the model again"
            )
        self._first = found

    def _close(self) -> None:
        with self._lock:
            self._session = None
        give_back_memory()

    def reads(self, text: str) -> bool:
        """See `TextEncoder.reads`. The few letters of other scripts that it knows mean nothing to it."""
        return is_latin(text) and reads(self._tokenizer, text)
