"""The trained auxiliary head that names categories for the rule `top_n` (FGAseg, SED), at run time.

What it computes is told where it is trained, in `ovs_ros/training/networks/auxiliary.py`.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.manifest import SELECTION_FILE
from ovs_ros.runtime.arrays import read_arrays

_ARRAYS = {"norm_weight", "norm_bias", "widen_weight", "widen_bias", "narrow_weight", "narrow_bias", "scale"}
_EPSILON = np.float32(1e-5)


class SelectionHead:
    """Brings patches to where they are compared with words.

    Attributes:
        dim: D, the width of the space of words.
        scale: what the cosines are multiplied with.

    Args:
        path: the file that `ovs train network` wrote beside its network.

    Raises:
        ValueError: it is another file.
    """

    def __init__(self, path: Path) -> None:
        self._arrays: dict[str, NDArray[np.float32]] = read_arrays(
            path, _ARRAYS, "a selection head that 'ovs train network' wrote", "remove it, or train it again"
        )
        self.dim, self.scale = len(self._arrays["norm_weight"]), float(self._arrays["scale"])

    def __call__(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """Patches (n, D) float32, unit rows, to unit rows of the same shape."""
        of = self._arrays
        spread = np.sqrt(patches.var(axis=1, keepdims=True) + _EPSILON)
        normed = (patches - patches.mean(axis=1, keepdims=True)) / spread
        normed = normed * of["norm_weight"] + of["norm_bias"]
        inner = np.maximum(normed @ of["widen_weight"].T + of["widen_bias"], 0)
        moved = patches + inner @ of["narrow_weight"].T + of["narrow_bias"]
        out: NDArray[np.float32] = moved / np.linalg.norm(moved, axis=1, keepdims=True)
        return out


def find_selection_head(network: Path) -> SelectionHead | None:
    """The head that was trained with a network, beside it; None where there is none.

    Raises:
        ValueError: there is another file of its name.
    """
    path = network.with_name(SELECTION_FILE)
    return SelectionHead(path) if path.is_file() else None
