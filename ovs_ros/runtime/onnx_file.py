"""Refuses ONNX files whose tensors lie in other files.

A tensor names such a file by a path, and ONNX Runtime before 1.24.1 follows it anywhere: a model could read
any file of the machine. The models here are one file each. Only the structure of the protobuf is walked.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

_DATA_LOCATION, _EXTERNAL_DATA = 14, 13
_PARTS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""Message of ONNX -> number of a field -> the message in it, as far as tensors can lie there."""
_DEEPEST = 100


def refuse_external_data(path: Path) -> None:
    """Raise ValueError if a tensor of an ONNX file lies in another file, or the file is no protobuf."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise ValueError(
                f"expected an ONNX network in {path}, got an empty file; copy or install it again"
            )
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                external = _has_external(data, "model", 0, len(data), 0)
            except (IndexError, ValueError) as error:
                raise ValueError(
                    f"expected an ONNX network in {path}, got a damaged or another file; copy it again"
                ) from error
    if external:
        raise ValueError(
            f"expected an ONNX network in one file in {path}, got one whose tensors lie in other files; "
            "save it without external data"
        )


def _has_external(data: mmap.mmap, kind: str, start: int, end: int, depth: int) -> bool:
    if depth > _DEEPEST:
        raise ValueError("graphs in graphs")
    for number, wire, first, last in _fields(data, start, end):
        if kind == "tensor":
            if number == _EXTERNAL_DATA or (number == _DATA_LOCATION and wire == 0 and data[first] != 0):
                return True
            continue
        part = _PARTS[kind].get(number)
        if part and wire == 2 and _has_external(data, part, first, last, depth + 1):
            return True
    return False


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, and where the value begins and ends, of each field of a message."""
    while start < end:
        key, start = _varint(data, start)
        wire, first = key & 7, start
        if wire == 0:
            _, start = _varint(data, start)
        elif wire == 2:
            length, first = _varint(data, start)
            start = first + length
        elif wire in (1, 5):
            start += 8 if wire == 1 else 4
        else:
            raise ValueError("a group")
        if start > end:
            raise ValueError("a field beyond the end")
        yield key >> 3, wire, first, start


def _varint(data: mmap.mmap, start: int) -> tuple[int, int]:
    """A number, and where it ends."""
    number = shift = 0
    while True:
        byte = data[start]
        number |= (byte & 127) << shift
        start += 1
        shift += 7
        if byte < 128:
            return number, start
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
