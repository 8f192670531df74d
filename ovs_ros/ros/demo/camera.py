"""A camera for demonstrations and tests: plays a source as `image`, `depth` and `camera_info`.

python -m ovs_ros.ros.demo.camera --source motorcycle --rate 15
"""

import argparse
import array
import sys
from collections.abc import Iterator
from itertools import islice

import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.task import Future
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from ovs_ros.ros import shared_memory
from ovs_ros.ros.demo.sources import View, open_source

FRAME_ID = "camera_color_optical_frame"


class Camera(Node):
    """Publishes views, so many a second, stamped with the time of publication.

    Attributes:
        done: completes after the last view.
    """

    def __init__(self, views: Iterator[View], rate: float) -> None:
        super().__init__("camera")
        self._views = views
        self._image = self.create_publisher(Image, "image", qos_profile_sensor_data)
        self._depth = self.create_publisher(Image, "depth", qos_profile_sensor_data)
        self._info = self.create_publisher(CameraInfo, "camera_info", 10)
        self._timer = self.create_timer(1.0 / rate, self._tick)
        self.done = Future()

    def _tick(self) -> None:
        view = next(self._views, None)
        if view is None:
            self.get_logger().info("All frames are published")
            self._timer.cancel()
            self.done.set_result(None)
            return
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=FRAME_ID)
        # The image goes last, so that its depth and calibration are there when it arrives.
        if view.intrinsics is not None:
            self._info.publish(camera_info(header, view.image.shape[:2], view.intrinsics))
        if view.depth is not None:
            encoding = "16UC1" if view.depth.dtype == np.uint16 else "32FC1"
            self._depth.publish(image_message(header, view.depth, encoding))
        self._image.publish(image_message(header, view.image, "rgb8"))


def image_message(header: Header, pixels: NDArray, encoding: str) -> Image:
    """An Image of (H, W) or (H, W, C) pixels in this machine's byte order, without row padding."""
    return Image(
        header=header,
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=sys.byteorder == "big",
        step=pixels.nbytes // pixels.shape[0],
        data=array.array("B", pixels.tobytes()),
    )


def camera_info(header: Header, size: tuple[int, ...], intrinsics: NDArray[np.float64]) -> CameraInfo:
    """The CameraInfo of a rectified camera without distortion; size is (height, width)."""
    projection = np.hstack([intrinsics, np.zeros((3, 1))])
    return CameraInfo(
        header=header,
        height=size[0],
        width=size[1],
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=intrinsics.ravel().tolist(),
        r=np.eye(3).ravel().tolist(),
        p=projection.ravel().tolist(),
    )


def main() -> None:
    """Run the camera until it is interrupted or has played `--frames` frames."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--source", default="motorcycle", help="motorcycle, a folder, a video file or a webcam's number"
    )
    parser.add_argument("--rate", type=float, default=15.0, help="frames a second")
    parser.add_argument("--frames", type=int, default=None, help="stop after as many frames")
    arguments = parser.parse_args(remove_ros_args(sys.argv)[1:])
    if not 0 < arguments.rate <= 1000:
        parser.error(f"--rate must lie above 0 and up to 1000 frames a second, not {arguments.rate}")
    shared_memory.use_profile()
    rclpy.init()
    try:
        camera = Camera(islice(open_source(arguments.source), arguments.frames), arguments.rate)
        rclpy.spin_until_future_complete(camera, camera.done)
    except ValueError as error:
        sys.exit(f"camera: {error}")
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
