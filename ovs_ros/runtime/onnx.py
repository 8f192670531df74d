"""ONNX Runtime sessions on the CPU."""

from pathlib import Path

import onnxruntime as ort


def open_session(path: Path, *, threads: int = 0) -> ort.InferenceSession:
    """Open a model for the CPU.

    Args:
        path: an .onnx file.
        threads: how many threads one call may use; 0 means one for each core.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"expected a model at {path}, found none; reinstall ovs_ros or rebuild it with 'ovs train'"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin between two frames take the cores from the camera driver and from DDS.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
