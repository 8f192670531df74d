"""Refuse NaN and infinity, which a network gives whose weights, precision or device are broken."""

import math

from numpy.typing import NDArray


class NotFiniteError(ArithmeticError):
    """A model gives NaN or infinity: says which one, what of it, and what to do."""


def require_finite(array: NDArray, what: str, model: str) -> None:
    """Raise NotFiniteError if an array of any shape has a value that is NaN or infinite.

    Args:
        array: floating point, at least one value.
        what: it holds, for the message, such as 'logits'.
        model: that gave it.
    """
    # Both pass on NaN, and neither needs an array of its own: a third of the time of `np.isfinite`.
    if not (math.isfinite(array.min()) and math.isfinite(array.max())):
        raise NotFiniteError(
            f"expected finite {what} from {model}, got NaN or infinity; try the precision fp32 or the device "
            "cpu, and if it happens there too, install or export the model again"
        )
