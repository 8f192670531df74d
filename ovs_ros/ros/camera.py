"""One camera of the node: its topics, its pipeline and its figures."""

from collections.abc import Callable
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, PointCloud2

from ovs_ros.ros.cloud_labelling import CloudLabelling
from ovs_ros.ros.diagnostics import MISSING_S, Condition, lacks
from ovs_ros.ros.frames import Frame, FrameQueue
from ovs_ros.ros.graph import obstacle
from ovs_ros.ros.inputs import Inputs
from ovs_ros.ros.look_for import LookForOutput, LookForServer
from ovs_ros.ros.optics import BodyMask, Optics
from ovs_ros.ros.optional_outputs import OptionalOutput, optional_outputs
from ovs_ros.ros.outputs import Outputs
from ovs_ros.ros.parameters import Settings
from ovs_ros.ros.pipeline import Pipeline
from ovs_ros.ros.points_publisher import PointsPublisher
from ovs_ros.ros.propagating import Candidate, Propagating
from ovs_ros.ros.recent import RecentFrames
from ovs_ros.ros.statistics import Statistics
from ovs_ros.ros.subscriptions import INPUTS, Subscriptions
from ovs_ros.ros.throttle import Throttle
from ovs_ros.ros.words import Words

if TYPE_CHECKING:
    from ovs_ros.ros.transforms import Transforms


class Camera:
    """All that belongs to one camera alone. It exists as long as the node. For the executor's thread.

    Args:
        node: whose camera it is.
        name: stands before its topics, as in 'front/image'; empty: the topics are plain.
        settings: called for the parameters' values.
        warn: called with each warning.
        look_for: looks for words in its frames.
        transforms: called for the listener to tf.

    Attributes:
        statistics: of its frames since the start.
        throttle: takes warnings; they tell its name.
        topics: the resolved names of its inputs, subscribed to or not; none while the node is not active.
    """

    def __init__(
        self,
        node: LifecycleNode,
        name: str,
        settings: Callable[[], Settings],
        warn: Callable[[str], object],
        look_for: LookForServer,
        transforms: Callable[[], "Transforms"],
    ) -> None:
        self.name = name
        self.statistics = Statistics()
        self.throttle = Throttle(lambda text: warn(f"{name}: {text}" if name else text))
        self._node = node
        self._prefix = f"{name}/" if name else ""
        self._settings = settings
        self._look_for = look_for
        self._transforms = transforms
        self._tf: Transforms | None = None
        self._clouds: CloudLabelling | None = None
        self._labelled_clouds: PointsPublisher | None = None
        self._outputs: Outputs | None = None
        self._optional_outputs: list[OptionalOutput] = []
        self._inputs: Inputs | None = None
        self._subscriptions: Subscriptions | None = None
        self._pipeline: Pipeline | None = None
        self.topics: set[str] = set()
        self._image_topic = ""
        self._since = monotonic()

    @property
    def camera_info(self) -> CameraInfo | None:
        """The calibration that came last; None while the node is not active."""
        return None if self._inputs is None else self._inputs.newest("camera_info")

    def configure(self, index: int = 0) -> None:
        """Make the publishers, and read the mask of the robot's body.

        Args:
            index: of this camera among all.

        Raises:
            ValueError, OSError: a file that the parameters name cannot be used.
        """
        node = self._settings().node
        self._body_mask = BodyMask(node.each(node.body_mask)[index], self.throttle)
        self._optional_outputs = optional_outputs(
            self._node, self._prefix, lambda: self._settings().node, self.throttle
        )
        self._optional_outputs.append(LookForOutput(self._look_for, self.name))
        self._outputs = Outputs(self._node, self._prefix)
        self._labelled_clouds = PointsPublisher(self._node, f"{self._prefix}semantic/cloud")

    def prepare(self, queue: FrameQueue[Frame], index: int, words: Words, recent: RecentFrames) -> Pipeline:
        """Make what a frame passes through.

        Args:
            queue, index: where its frames wait.
            words: what names the pixels.
            recent: keeps the images that were segmented.
        """
        assert self._outputs
        node = self._settings().node
        self._inputs = Inputs(node.sync_slop, queue, index, lambda: self._max_rate(index))
        self._subscriptions = Subscriptions(
            self._node, self._prefix, node, self._inputs, self._put_cloud, self.statistics, self.throttle
        )
        self._pipeline = Pipeline(
            self._node,
            self.name,
            words,
            self._outputs,
            self._optional_outputs,
            self._inputs,
            self._settings,
            self.statistics,
            self.throttle,
            recent,
            Optics(self._subscriptions.rectified, node.each(node.rotation)[index], self._body_mask),
            lambda: self._clouds,
            lambda: self._tf,
        )
        return self._pipeline

    def propagate(
        self, queue: FrameQueue[Frame], index: int, candidates: FrameQueue[Candidate]
    ) -> Propagating:
        """Make what carries labels from frame to frame. Call it after `prepare`.

        Args:
            queue, index: as for `prepare`.
            candidates: where frames wait for the encoder.
        """
        assert self._pipeline and self._inputs
        options = self._settings().node
        return Propagating(self._pipeline, options, self._inputs, self.statistics, index, queue, candidates)

    def _max_rate(self, index: int) -> float:
        node = self._settings().node
        return node.each(node.max_rate)[index]

    def open(self) -> None:
        """Subscribe. Call it after `prepare`."""
        assert self._subscriptions
        # To all at first: their QoS overrides become parameters, and wrong ones fail here.
        self._subscriptions.keep(INPUTS)
        images = self._subscriptions.get("image")
        assert images
        self._image_topic, self.topics = images.topic_name, self._subscriptions.topics
        self._attend()
        once = ", once somebody subscribes to what comes of them" if self._is_idle else ""
        self._node.get_logger().info(f"Active: images from {self._image_topic}{once}")

    def attend(self) -> None:
        """Subscribe to what is needed now, and to nothing else. To be called a few times a second."""
        try:
            self._attend()
        except Exception as error:  # The node goes on; the next call tries again.
            self.throttle.warn("subscriptions", f"Expected to subscribe to its inputs, got {error!r}")

    def _attend(self) -> None:
        if self._subscriptions is None or self._pipeline is None:
            return
        publisher, was_idle = self._labelled_clouds, self._is_idle
        if publisher is None or not publisher.wanted():
            self._stop_clouds()
        elif self._clouds is None and (transforms := self._listen_to_tf()) is not None:
            self._clouds = CloudLabelling(publisher, transforms, lambda: self._settings().node, self.throttle)
        node = self._settings().node
        if (node.temporal_filter == "pose" or node.propagate == "depth") and node.pose_source == "tf":
            self._listen_to_tf()
        self._subscriptions.keep(self._pipeline.needs())
        if was_idle:
            self._since = monotonic()

    @property
    def _is_idle(self) -> bool:
        return self._subscriptions is None or self._subscriptions.get("image") is None

    def close(self) -> None:
        """Unsubscribe, and forget what waits."""
        if self._subscriptions is not None:
            self._subscriptions.keep(())
        self._subscriptions = self._inputs = self._pipeline = self._tf = None
        self.topics = set()
        self._stop_clouds()

    def release(self) -> None:
        """Destroy the publishers."""
        if self._outputs is not None:
            self._outputs.destroy()
        for output in self._optional_outputs:
            output.destroy()
        if self._labelled_clouds is not None:
            self._labelled_clouds.destroy()
        self._outputs = self._labelled_clouds = None
        self._optional_outputs = []

    def _listen_to_tf(self) -> "Transforms | None":
        """The listener to tf, from now on; None where tf2_ros is not installed."""
        if self._tf is None:
            try:
                self._tf = self._transforms()
            except ImportError as error:
                self.throttle.warn("tf", f"tf is not used: {error}; install ros-$ROS_DISTRO-tf2-ros-py")
        return self._tf

    def _put_cloud(self, cloud: PointCloud2) -> None:
        if self._clouds is not None:
            self._clouds.put(cloud)

    def _stop_clouds(self) -> None:
        if self._clouds is not None:
            self._clouds.close()
        self._clouds = None

    def condition(self, node: Condition) -> Condition:
        """What is known of this camera, beside what is known of the node."""
        subscriptions = self._subscriptions
        if subscriptions is None:
            return node
        images = subscriptions.get("image")
        if images is None:
            return replace(node, topic=self._image_topic, idle=True)
        return replace(
            node,
            since=max(node.since, self._since),
            topic=images.topic_name,
            obstacle=obstacle(self._node, images, subscriptions.unremapped("image")),
            missing=self._missing(),
            best_effort=images.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT,
        )

    def _missing(self) -> tuple[str, ...]:
        """What points or the temporal filter need and do not get, and why."""
        inputs, subscriptions = self._inputs, self._subscriptions
        assert inputs and subscriptions
        return tuple(
            lacks(
                missing,
                obstacle(self._node, subscription, subscriptions.unremapped(missing.name)),
                subscription.topic_name,
                inputs.slop,
            )
            for missing in inputs.missing()
            if missing.seconds > MISSING_S and (subscription := subscriptions.get(missing.name))
        )
