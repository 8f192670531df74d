"""The way of a frame through the node."""

import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from ovs_ros.geometry.points import PointProjector
from ovs_ros.options import NodeOptions, SegmenterOptions
from ovs_ros.render import painted
from ovs_ros.ros.cloud_labelling import CloudLabelling, LabelledImage
from ovs_ros.ros.conversions import BitDepth, ConversionError, compressed_to_rgb, image_to_rgb
from ovs_ros.ros.distortion_warning import DistortionWarning
from ovs_ros.ros.frames import Frame
from ovs_ros.ros.inputs import Inputs
from ovs_ros.ros.measurements import Measurements
from ovs_ros.ros.motion import Views
from ovs_ros.ros.optics import Optics
from ovs_ros.ros.optional_outputs import OptionalOutput
from ovs_ros.ros.outputs import Outputs
from ovs_ros.ros.parameters import Settings
from ovs_ros.ros.recent import RecentFrames
from ovs_ros.ros.statistics import Statistics
from ovs_ros.ros.temporal import TemporalFiltering
from ovs_ros.ros.throttle import Throttle
from ovs_ros.ros.words import Words
from ovs_ros.runtime.finite import NotFiniteError
from ovs_ros.steps.relabel import hide, turn_back
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.vocabulary.vocabulary import Vocabulary
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

if TYPE_CHECKING:
    from ovs_ros.ros.transforms import Transforms


class Asked(NamedTuple):
    """What a pipeline wants to have segmented.

    Attributes:
        image: (H, W, 3) uint8 RGB, upright.
        words, options: as for `Segmenter.segment`.
    """

    image: NDArray[np.uint8]
    words: WordEmbeddings
    options: SegmenterOptions


@dataclass(frozen=True, eq=False)
class Prepared:
    """A frame whose image can be segmented.

    Attributes:
        frame: as it came.
        image: (H, W, 3) uint8 RGB, rectified if that is wanted.
        measurements: what belongs to it.
        convert_ms: the milliseconds that it took.
    """

    frame: Frame
    image: NDArray[np.uint8]
    measurements: Measurements
    convert_ms: float

    @property
    def header(self) -> Header:
        """The image's."""
        return self.frame.image.header

    @property
    def seconds(self) -> float:
        """The image's stamp."""
        return self.frame.stamp / 1e9


class Pipeline:
    """Converts the frames of one camera, has them segmented, and publishes everything that belongs to them.

    `process` does all of it. Where another thread asks for results, it calls `result` alone, and the rest is
    for one thread all the same.

    Args:
        node: for its clock and log.
        camera: its name.
        words: what names the pixels.
        outputs, optional_outputs: where results go.
        inputs: where depth and poses come from.
        settings: called for the parameters' values at each frame.
        statistics: told of every frame.
        throttle: takes warnings about bad input.
        recent: keeps the images that were segmented.
        optics: of the camera.
        clouds: called for what labels clouds; None while nobody wants any.
        transforms: called for the listener to tf; None while nothing needs it.
    """

    def __init__(
        self,
        node: Node,
        camera: str,
        words: Words,
        outputs: Outputs,
        optional_outputs: Sequence[OptionalOutput],
        inputs: Inputs,
        settings: Callable[[], Settings],
        statistics: Statistics,
        throttle: Throttle,
        recent: RecentFrames,
        optics: Optics,
        clouds: Callable[[], CloudLabelling | None],
        transforms: Callable[[], "Transforms | None"],
    ) -> None:
        self._node = node
        self._camera = camera
        self._words = words
        self._outputs = outputs
        self._optional_outputs = optional_outputs
        self._settings = settings
        self._statistics = statistics
        self._throttle = throttle
        self._inputs = inputs
        self._recent = recent
        self._optics = optics
        self._clouds = clouds
        self._views = Views(transforms)
        self._temporal_filter = TemporalFiltering()
        self._announced: tuple[int, float] | None = None
        self._projector: PointProjector | None = None
        self._distortion = DistortionWarning(throttle)
        self._bit_depth = BitDepth()

    def needs(self) -> set[str]:
        """The inputs that it needs now; with `lazy`, none while nobody subscribes to an output."""
        node = self._settings().node
        needed = self._outputs.needs(node.points).union(
            *(output.needs() for output in self._optional_outputs)
        )
        if self._clouds() is not None:
            needed.add("cloud")
        if needed or not node.lazy:
            needed |= {"image", "camera_info"}
            if node.temporal_filter == "pose" or node.propagate == "depth":
                needed |= {"depth", "pose"} if node.pose_source == "topic" else {"depth"}
        return needed

    def announce(self) -> None:
        """Publish what the ids mean, if that has changed."""
        self.announce_words(self.words.vocabulary)

    @property
    def options(self) -> NodeOptions:
        """The node's, as they are now."""
        return self._settings().node

    @property
    def words(self) -> WordEmbeddings:
        """Those that hold now."""
        return self._words.current

    def process(self, frame: Frame) -> Generator[Asked, Segmentation, None]:
        """Convert a frame, ask for what it shows, and publish it. A frame that is dropped asks for nothing.

        The worker answers, so that it can put frames of several cameras together.
        """
        words = self.words
        self.announce_words(words.vocabulary)
        prepared = self.prepare(frame)
        if prepared is None:
            return
        result = yield from self.result(prepared, words)
        if self._temporal_filter.follow(self.options):
            kind = self.options.temporal_filter
            view = self.view(kind, prepared, "The temporal filter leaves a frame as it is")
            if view is not None:
                result = self._temporal_filter.apply(result, prepared.seconds, view)
        self._statistics.segmented(self.publish(prepared, result))

    def result(
        self, prepared: Prepared, words: WordEmbeddings
    ) -> Generator[Asked, Segmentation, Segmentation]:
        """Ask for what an image shows; the result has the image's own rows and columns."""
        rotation = self._optics.rotation
        # The model sees it upright; positive turns of numpy go to the left.
        image = (
            np.ascontiguousarray(np.rot90(prepared.image, -rotation // 90)) if rotation else prepared.image
        )
        result = yield Asked(image, words, self._settings().segmenter)
        return turn_back(result, rotation) if rotation else result

    def prepare(self, frame: Frame) -> Prepared | None:
        """Convert a frame; None if it has to be dropped, which is counted."""
        settings = self._settings()
        message, started, bits = frame.image, perf_counter(), self._bit_depth.bits
        try:
            image = (
                compressed_to_rgb(message, self._bit_depth, settings.node.max_megapixels)
                if isinstance(message, CompressedImage)
                else image_to_rgb(message, self._bit_depth)
            )
        except ConversionError as error:
            self._statistics.dropped("malformed")
            self._throttle.warn("image", f"An image is dropped: {error}")
            return None
        if self._bit_depth.bits > bits:
            self._node.get_logger().info(
                f"The images' pixels of 16 bits use {self._bit_depth.bits} bits so far: they are read as such"
            )
        size = (image.shape[0], image.shape[1])
        measurements = Measurements(
            frame, size, self._optics, settings.node.rectify, self._inputs, self._throttle
        )
        try:
            rectification = measurements.rectification
        except ConversionError as error:
            self._statistics.dropped("not rectified")
            self._throttle.warn("rectify", f"An image is dropped, because it cannot be rectified: {error}")
            return None
        if rectification is not None:
            image = rectification.image(image)
        return Prepared(frame, image, measurements, (perf_counter() - started) * 1e3)

    def view(self, kind: str, prepared: Prepared, what: str) -> Any:
        """What the motion `kind` is found from; None if it lacks, with a warning that begins with `what`."""
        try:
            header, image, measurements = prepared.header, prepared.image, prepared.measurements
            return self._views.of(kind, header, image, measurements, self.options)
        except ConversionError as error:
            self._throttle.warn("view", f"{what}: {error}")
            return None

    def publish(
        self, prepared: Prepared, result: Segmentation, key: Header | None = None
    ) -> dict[str, float]:
        """Publish a frame.

        Args:
            prepared: the frame.
            result: its names.
            key: the header of the frame that they were carried from; None: they are its own.

        Returns:
            The milliseconds of each step.
        """
        header, image, measurements = prepared.header, prepared.image, prepared.measurements
        if measurements.hidden is not None:
            result = hide(result, measurements.hidden)
        self._recent.put(self._camera, prepared.frame.stamp, image, self._optics.rotation)
        clouds = self._clouds()
        if clouds is not None:
            self._show(clouds, header, image, measurements, result)
        started = perf_counter()
        self._outputs.images(header, image, result)
        stages = {
            "convert": prepared.convert_ms,
            **result.stages_ms,
            "publish": (perf_counter() - started) * 1e3,
        }
        self._outputs.categories(header, result, stages, key)
        for output in self._optional_outputs:
            output.publish(header, result, measurements)
        now = self._node.get_clock().now().nanoseconds
        self._statistics.published((now - prepared.frame.stamp) / 1e6, stages, key is not None)
        if self._outputs.points_wanted(self._settings().node.points):
            self._points(header, image, measurements, result)
        return stages

    def failed(self, error: Exception) -> None:
        """A frame could not be segmented or published."""
        if not self._node.context.ok():  # Ctrl-C ends the context while a frame is at work.
            return
        if isinstance(error, NotFiniteError):
            self._statistics.dropped("not finite")
            self._throttle.warn("not finite", f"A frame is dropped: {error}")
            return
        self._statistics.dropped("failed")
        text = "".join(traceback.format_exception(error))
        self._throttle.warn("failed", f"A frame is dropped, segmentation failed:\n{text}")

    def announce_words(self, vocabulary: Vocabulary) -> None:
        """Publish what the ids of this vocabulary mean, if something else was published last."""
        threshold = self._settings().segmenter.threshold
        state = (vocabulary.version, threshold)
        if self._announced is None:
            for output in self._optional_outputs:
                output.announce()
        if state != self._announced:
            self._outputs.label_info(vocabulary, threshold)
            self._announced = state

    def _show(
        self,
        clouds: CloudLabelling,
        header: Header,
        image: NDArray[np.uint8],
        measurements: Measurements,
        result: Segmentation,
    ) -> None:
        try:
            colors = self._colored(image, result)
            clouds.see(LabelledImage(header, colors, result, measurements.camera_model))
        except ConversionError as error:
            self._throttle.warn("clouds", f"An image cannot label clouds: {error}")

    def _points(
        self, header: Header, image: NDArray[np.uint8], measurements: Measurements, result: Segmentation
    ) -> None:
        if not measurements.has_depth():
            return
        try:
            intrinsics, metres = measurements.intrinsics, measurements.metres
        except ConversionError as error:
            self._throttle.warn("points", f"No points for a frame: {error}")
            return
        self._distortion.look(measurements)
        if self._projector is None or intrinsics != self._projector.intrinsics:
            self._projector = PointProjector(intrinsics)
        points = self._outputs.points.buffer(*metres.shape)
        self._projector.fill(points, metres, self._colored(image, result), result.labels, result.confidence)
        self._outputs.points.publish(header, points)

    def _colored(self, image: NDArray[np.uint8], result: Segmentation) -> NDArray[np.uint8]:
        """What points take their colours from."""
        if self._settings().node.points_color == "image":
            return image
        return painted(image, result.labels, result.vocabulary)
