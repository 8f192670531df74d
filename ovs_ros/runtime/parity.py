"""Whether two ways to run one network give the same: cosines of their outputs, on one fixed picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.999}
"""What both the mean and the least cosine of an output's rows must reach, by precision."""
_SAME = 1e-6
"""Rows whose values are all below this count as equal: zeros have no direction."""


class ParityError(ValueError):
    """Two runs that should agree differ."""


@dataclass(frozen=True)
class Parity:
    """Cosines between the rows of two arrays: the least, and their mean."""

    least: float
    mean: float

    def __str__(self) -> str:
        return f"least {self.least:.6f}, mean {self.mean:.6f}"


def compare(values: NDArray[Any], expected: NDArray[Any]) -> Parity:
    """Cosines between rows (the last axis) of two arrays of one shape, taken in float64.

    What is not finite has cosine -1 with everything.

    Raises:
        ValueError: the shapes differ.
    """
    if values.shape != expected.shape:
        raise ValueError(f"expected outputs of one shape, got {values.shape} and {expected.shape}")
    a, b = (array.reshape(-1, array.shape[-1]).astype(np.float64) for array in (values, expected))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = (a * b).sum(axis=1) / norms
    cosines[(np.abs(a).max(axis=1) < _SAME) & (np.abs(b).max(axis=1) < _SAME)] = 1.0
    cosines[~np.isfinite(cosines)] = -1.0
    return Parity(float(cosines.min()), float(cosines.mean()))


def rows_of(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """An output so that each of its rows is a thing of its own, which must agree.

    Embeddings ('patches', 'pooled', 'embeddings') are rows already, one map of 'logits' makes one row, and
    anything else is one as a whole: a line of a map may be next to nothing, and has no direction then.
    """
    if name in ("patches", "pooled", "embeddings"):
        return values
    return values.reshape(len(values) if name == "logits" else 1, -1)


def session_parity(session: Any, reference: Any, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Parity]:
    """Run two sessions of ONNX Runtime on the same inputs and compare their outputs.

    Args:
        session: the session to check.
        reference: the one it must agree with.
        inputs: by name.
    """
    names = [output.name for output in reference.get_outputs()]
    found, expected = session.run(names, dict(inputs)), reference.run(names, dict(inputs))
    return {
        name: compare(rows_of(name, a), rows_of(name, b))
        for name, a, b in zip(names, found, expected, strict=True)
    }


def require(parities: Mapping[str, Parity], least: float, what: str) -> None:
    """Refuse outputs that differ.

    Args:
        parities: by output.
        least: what all cosines must reach.
        what: is checked, for the message.

    Raises:
        ParityError: one lies below, with the figures.
    """
    for name, parity in parities.items():
        if parity.least < least or parity.mean < least:
            raise ParityError(
                f"expected {what} to give the same as in float32, cosines of at least {least}, got {parity} "
                f"for its output {name}; use another precision"
            )


def fixed_inputs(session: Any, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Inputs for a session, the same each time: a picture for bytes, unit rows for floats, ids for integers.

    Free axes get the length 2.
    """
    generator = np.random.default_rng(seed)
    inputs: dict[str, NDArray[Any]] = {}
    for given in session.get_inputs():
        shape = tuple(axis if isinstance(axis, int) else 2 for axis in given.shape)
        if given.type == "tensor(uint8)":
            inputs[given.name] = np.stack([fixed_picture(*shape[1:3]) for _ in range(shape[0])])
        elif given.type == "tensor(int64)":
            inputs[given.name] = generator.integers(0, 2, shape)
        else:
            rows = generator.standard_normal(shape).astype(np.float32)
            inputs[given.name] = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return inputs


def fixed_picture(height: int, width: int) -> NDArray[np.uint8]:
    """Slopes, edges, texture and flat areas: (height, width, 3) uint8 RGB, the same each time."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    down, across = y / max(1, height - 1), x / max(1, width - 1)
    picture = np.stack((200 * down + 30, 220 * across + 20, 120 + 100 * np.sin(9 * down * across)), axis=-1)
    checks = ((y // 12 + x // 12) % 2).astype(bool)
    left_below = (down > 0.55) & (across < 0.4)
    picture[left_below & checks] = (235, 225, 60)
    picture[(down < 0.35) & (across > 0.6)] = (40, 90, 200)
    picture[(down - 0.6) ** 2 + (across - 0.7) ** 2 < 0.03] = (190, 30, 40)
    picture += np.random.default_rng(0).normal(0, 8, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)
