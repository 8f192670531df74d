"""Labels the points of a lidar from the images of a camera, in a thread of its own.

100,000 points take about 10 ms, and longer while transforms are on their way. On the worker's thread each
cloud would delay a frame; on the executor's thread, the answers of services.
"""

import threading
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header

from ovs_ros.geometry.camera_model import CameraModel
from ovs_ros.geometry.cloud import label_points, moved
from ovs_ros.geometry.points import POINT, POINT_WITH_INTENSITY
from ovs_ros.options import NodeOptions
from ovs_ros.ros.clouds import cloud_from
from ovs_ros.ros.conversions import ConversionError
from ovs_ros.ros.frames import nanoseconds
from ovs_ros.ros.points_publisher import PointsPublisher
from ovs_ros.ros.throttle import Throttle
from ovs_ros.steps.segmentation import Segmentation

if TYPE_CHECKING:
    from ovs_ros.ros.transforms import Transforms

KEPT = 5
"""How many clouds wait at most. Those of a lidar come steadily, but transforms may come in bursts."""


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """What clouds are labelled from: an image (H, W, 3) uint8 RGB, its labels, and its camera."""

    header: Header
    image: NDArray[np.uint8]
    result: Segmentation
    camera: CameraModel


class CloudLabelling:
    """Takes clouds and labelled images from other threads, and publishes labelled clouds.

    Args:
        publisher: where labelled clouds go.
        transforms: tells where the lidar and the camera are.
        options: called for the parameters' values at each cloud.
        throttle: takes warnings.
    """

    def __init__(
        self,
        publisher: PointsPublisher,
        transforms: "Transforms",
        options: Callable[[], NodeOptions],
        throttle: Throttle,
    ) -> None:
        self._publisher = publisher
        self._transforms = transforms
        self._options = options
        self._throttle = throttle
        self._changed = threading.Condition()
        self._waiting: deque[PointCloud2] = deque(maxlen=KEPT)
        self._newest: LabelledImage | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="clouds", daemon=True)
        self._thread.start()

    def put(self, cloud: PointCloud2) -> None:
        """Let a cloud be labelled. Of more than KEPT that wait, the oldest is dropped."""
        with self._changed:
            self._waiting.append(cloud)
            self._changed.notify_all()

    def see(self, image: LabelledImage) -> None:
        """Label clouds from this image from now on."""
        self._newest = image

    def close(self) -> None:
        """Stop, and wait for the cloud at work."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                cloud = self._waiting.popleft()
            image = self._newest
            if image is None:  # /diagnostics tells of images that do not come.
                continue
            try:
                self._label(cloud, image)
            except ConversionError as error:
                self._throttle.warn("cloud", f"A cloud is not labelled: {error}")
            except Exception:  # Go on with the next cloud.
                self._throttle.warn("cloud", f"A cloud is not labelled:\n{traceback.format_exc()}")

    def _label(self, message: PointCloud2, image: LabelledImage) -> None:
        options, stamp, image_stamp = self._options(), nanoseconds(message.header), nanoseconds(image.header)
        ahead = (stamp - image_stamp) / 1e9
        if abs(ahead) > options.cloud_slop:
            raise ConversionError(
                f"expected a labelled image whose stamp is within {options.cloud_slop:g} s of the cloud's, "
                f"got one {abs(ahead):.3f} s {'before' if ahead > 0 else 'after'} it; compare the sensors' "
                "clocks, or raise cloud_slop"
            )
        cloud = cloud_from(message)
        motion = self._transforms.between(
            image.header.frame_id, image_stamp, message.header.frame_id, stamp, options.fixed_frame
        )
        seen = moved(cloud.points, motion)
        kind = POINT if cloud.intensity is None else POINT_WITH_INTENSITY
        out = self._publisher.buffer(message.height, message.width, kind)
        points = out.reshape(-1)
        points["x"], points["y"], points["z"] = cloud.points.T
        if cloud.intensity is not None:
            points["intensity"] = cloud.intensity
        result = image.result
        label_points(
            points, seen, image.camera, image.image, result.labels, result.confidence, result.unknown_id
        )
        self._publisher.publish(message.header, out)
