"""A camera that pans over a wall, with a noisy segmenter: for what works over time."""

from dataclasses import dataclass

import cv2
import numpy as np

from ovs_ros.geometry.flow import DownscaledFrame
from ovs_ros.geometry.points import Intrinsics
from ovs_ros.geometry.reprojection import Sight
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.vocabulary.vocabulary import Vocabulary

HEIGHT, WIDTH, STEP = 96, 128, 2  # The camera pans by STEP pixels a frame.
CAMERA = Intrinsics(100.0, 100.0, 63.5, 47.5, WIDTH, HEIGHT)
HZ = 15.0
WORDS = Vocabulary.from_names(["wall", "door", "cup"])
WALL, DOOR, CUP, UNKNOWN = 0, 1, 2, 255


@dataclass
class Frame:
    truth: np.ndarray
    result: Segmentation
    downscaled: DownscaledFrame
    sight: Sight
    stamp: float


def segmentation(labels, confidence=128, vocabulary=WORDS):
    ids = vocabulary.ids[np.isin(vocabulary.ids, labels)]
    names = {category.id: category.name for category in vocabulary.categories}
    return Segmentation(
        labels=labels,
        confidence=np.broadcast_to(np.uint8(confidence), labels.shape).copy(),
        vocabulary=vocabulary,
        selected_ids=ids,
        selected_names=tuple(names[i] for i in ids.tolist()),
        scores=np.full(len(ids), 0.5, np.float32),
        shares=np.array([(labels == i).mean() for i in ids], np.float32),
        unknown_share=float((labels == vocabulary.unknown_id).mean()),
        stages_ms={"decode": 1.0},
    )


def pan(frames=30, noise=0.2, appears=None):
    """A wall with a door; one pixel of five has a random name, anew in each frame. A cup may appear."""
    rng = np.random.default_rng(0)
    world = np.full((HEIGHT, WIDTH + STEP * frames), WALL, np.uint8)
    world[20:, 60:110] = DOOR
    picture = rng.uniform(0, 255, (*world.shape, 3)).astype(np.float32)
    picture = cv2.normalize(cv2.GaussianBlur(picture, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    for number in range(frames):
        if number == appears:
            world[40:70, 75:105] = CUP
        left = STEP * number
        truth = world[:, left : left + WIDTH].copy()
        labels = np.where(rng.random(truth.shape) < noise, rng.integers(0, 3, truth.shape), truth)
        where = np.eye(4)
        where[0, 3] = left / 100 * 2.0  # The wall stands two metres away.
        yield Frame(
            truth,
            segmentation(labels.astype(np.uint8)),
            DownscaledFrame.of(np.ascontiguousarray(picture[:, left : left + WIDTH]).astype(np.uint8)),
            Sight(CAMERA, np.full(truth.shape, 2.0, np.float32), where),
            number / HZ,
        )
