"""Labelled point clouds as PLY files (Turk, The PLY Polygon File Format, 1994)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovs_ros.runtime.files import write_atomically

_POINT = np.dtype("<f4, <f4, <f4, u1, u1, u1, u1, <u2")
_POINT.names = ("x", "y", "z", "red", "green", "blue", "confidence", "label")
_PLY_TYPES = {"<f4": "float", "|u1": "uchar", "<u2": "ushort"}


def write_ply(
    path: Path,
    xyz: NDArray[np.float32],
    rgb: NDArray[np.uint8],
    labels: NDArray[np.integer],
    confidence: NDArray[np.uint8],
    names: Mapping[int, str],
) -> int:
    """Write the points that are finite, binary and little endian; the names of the labels go into comments.

    Args:
        path: the file, overwritten.
        xyz: (..., 3) float32, metres.
        rgb: (..., 3) uint8.
        labels: (...) integers from 0 to 65535.
        confidence: (...) uint8.
        names: label to name.

    Returns:
        How many points were written.
    """
    keep = np.isfinite(xyz).all(axis=-1)
    points = np.empty(int(keep.sum()), _POINT)
    points["x"], points["y"], points["z"] = xyz[keep].T
    points["red"], points["green"], points["blue"] = rgb[keep].T
    points["label"] = labels[keep]
    points["confidence"] = confidence[keep]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        *(f"comment label {label} {name}" for label, name in sorted(names.items())),
        f"element vertex {len(points)}",
        *(f"property {_PLY_TYPES[_POINT[name].str]} {name}" for name in _POINT.names or ()),
        "end_header\n",
    ]
    write_atomically(path, "\n".join(header).encode() + points.tobytes())
    return len(points)
