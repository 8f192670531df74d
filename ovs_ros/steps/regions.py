"""Connected regions of a label image, in one pass over all labels."""

import cv2
import numpy as np
from numpy.typing import NDArray


def connected_regions(labels: NDArray[np.integer]) -> tuple[NDArray[np.int32], int]:
    """Number the regions of equal labels whose nodes are connected by a side.

    OpenCV finds components of a binary image. So the nodes are laid out with a gap between each two, a gap is
    closed where both its neighbours have one label, and the components of that are the regions.

    Args:
        labels: (rows, cols) integers, at least one node.

    Returns:
        (rows, cols) int32, the region of each node, counted from 0; and how many regions there are.
    """
    rows, cols = labels.shape
    laid_out = np.zeros((2 * rows - 1, 2 * cols - 1), np.uint8)
    laid_out[::2, ::2] = 1
    laid_out[1::2, ::2] = labels[1:] == labels[:-1]
    laid_out[::2, 1::2] = labels[:, 1:] == labels[:, :-1]
    count, components = cv2.connectedComponents(laid_out, connectivity=4, ltype=cv2.CV_32S)
    return components[::2, ::2] - 1, count - 1  # Component 0 is what lies between the nodes.
