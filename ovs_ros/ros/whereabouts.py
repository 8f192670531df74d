"""Where in this package a thread is, for telling where it hangs."""

import sys
import threading
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def whereabouts(thread: threading.Thread) -> str:
    """The innermost function of this package that a thread runs; empty if it runs none.

    Returns:
        Such as 'encode() in encoders/onnx_encoder.py, line 120'.
    """
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            return f"{frame.f_code.co_name}() in {path.relative_to(PACKAGE)}, line {frame.f_lineno}"
        frame = frame.f_back
    return ""
