"""The node: it segments the images of cameras.

ros2 run ovs_ros ovs_node, or python -m ovs_ros.ros.node
"""

from ovs_ros.ros import interrupts

if __name__ == "__main__":
    interrupts.catch()  # The imports below take a second.

import os
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

import ovs_ros
from ovs_ros.options import OFF, LoadOptions
from ovs_ros.ros import shared_memory
from ovs_ros.ros.camera import Camera
from ovs_ros.ros.diagnostics import Condition
from ovs_ros.ros.diagnostics_publisher import DiagnosticsPublisher
from ovs_ros.ros.frames import Frame, FrameQueue
from ovs_ros.ros.look_for import LookForServer
from ovs_ros.ros.parameters import Parameters
from ovs_ros.ros.pipeline import Pipeline
from ovs_ros.ros.propagating import QUIET_S, Candidate
from ovs_ros.ros.recent import RecentFrames
from ovs_ros.ros.services import VocabularyServices
from ovs_ros.ros.target_rate import TargetRate
from ovs_ros.ros.throttle import Throttle
from ovs_ros.ros.words import Words
from ovs_ros.ros.worker import Worker, stop_together
from ovs_ros.segmenter import Segmenter
from ovs_ros.vocabulary.state_file import StateFile
from ovs_ros.vocabulary.vocabulary import Vocabulary
from ovs_ros.vocabulary.yaml_io import load_vocabulary

if TYPE_CHECKING:
    from ovs_ros.ros.metrics import MetricsServer
    from ovs_ros.ros.transforms import Transforms

WATCH_S = 1.0
"""How often somebody looks whether the worker's thread lives."""
REPLY_S = 0.2
"""How long a node that ends because of a failure waits for the reply to whoever asked for the transition."""

ATTEND_S = 0.2
"""How often the node looks whether somebody subscribes."""

Transition = Callable[["OvsNode", LifecycleState], TransitionCallbackReturn]


def _logged(transition: Transition) -> Transition:
    """Report what a transition raises, and let it fail: rclpy hides these exceptions."""

    @wraps(transition)
    def guarded(self: "OvsNode", state: LifecycleState) -> TransitionCallbackReturn:
        try:
            result = transition(self, state)
        except Exception as error:
            self.on_failure(transition.__name__.removeprefix("on_"), error)
            return TransitionCallbackReturn.FAILURE
        self.failure = ""
        return result

    return guarded


class OvsNode(LifecycleNode):
    """Open-vocabulary segmentation of cameras, with one model and one vocabulary for all.

    The model loads in configure; the subscriptions open and the worker starts in activate.

    Args:
        make_segmenter: loads a model and makes its segmenter; by default `ovs_ros.load`.
        parameters: override those from the command line.

    Attributes:
        failure: why the last transition failed; empty if it did not.
        has_given_up: a transition failed, and `exit_on_failure` is set.
        left_behind: a thread was inside a model when it was released.
        cameras: as the parameter names them.
        warn: called with each warning; by default the node's log.
    """

    def __init__(
        self,
        make_segmenter: Callable[[LoadOptions], Segmenter] = lambda options: ovs_ros.load(
            options.model, **options.arguments()
        ),
        parameters: Sequence[Parameter] = (),
        **node_options: Any,
    ) -> None:
        super().__init__("ovs", parameter_overrides=list(parameters), **node_options)
        self._make_segmenter = make_segmenter
        self.warn: Callable[[str], object] = self.get_logger().warning
        self._throttle = Throttle(lambda text: self.warn(text))
        self._segmenter: Segmenter | None = None
        self._target_rate: TargetRate | None = None
        self._words: Words | None = None
        self._last_vocabulary: Vocabulary | None = None
        self._queue: FrameQueue[Frame] | None = None
        self._workers: list[Worker[Any]] = []
        self._hanging: list[Worker[Any]] = []
        self._transforms: Transforms | None = None
        self._metrics: MetricsServer | None = None
        self._since = monotonic()
        self.failure = ""
        self.has_given_up = False
        self.left_behind = False
        # Timers of the node's own clock stand still with use_sim_time and without a /clock.
        self._steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._recent = RecentFrames()
        self._vocabulary_services = VocabularyServices(
            self,
            lambda: self._words,
            self._wake,
            self._recent,
            lambda: self._encoder,
            lambda: self._config.settings,
            self._throttle,
        )
        self._look_for = LookForServer(self, self._vocabulary_services, lambda: bool(self._workers))
        self._config = Parameters(self)
        self._config.on_change = self._wake
        # rclpy ignores parameters that nobody declares: a misspelt one would go unnoticed.
        for message in self._config.misspelt(list(self._parameter_overrides)):
            self.get_logger().error(message)
        self.cameras = [
            Camera(
                self,
                name,
                lambda: self._config.settings,
                lambda text: self.warn(text),
                self._look_for,
                self._listen_to_tf,
            )
            for name in self._config.settings.node.cameras
        ]
        self._attending = self.create_timer(ATTEND_S, self._attend, clock=self._steady_clock)
        self._diagnostics = DiagnosticsPublisher(self, self.cameras, self._condition)
        self._watchdog = self.create_timer(WATCH_S, self._watch, clock=self._steady_clock)
        if self._config.settings.node.autostart:
            self._starter = self.create_timer(0.0, self._autostart, clock=self._steady_clock)
        else:
            name = self.get_fully_qualified_name()
            self.get_logger().info(f"Unconfigured: 'ros2 lifecycle set {name} configure' loads the model")

    def _autostart(self) -> None:
        self.destroy_timer(self._starter)
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def on_failure(self, transition: str, error: Exception) -> None:
        """Say why a transition failed: in the log and in /diagnostics. Give up if that is wanted."""
        self.failure = f"{transition} failed: {error}"
        self.get_logger().error(self.failure)
        if isinstance(error, (ValueError, OSError)):  # Foreseen, as a missing file is: the message says all.
            self.get_logger().debug(traceback.format_exc())
        else:
            self.get_logger().error(traceback.format_exc())
        if self._config.settings.node.exit_on_failure:
            self._ender = self.create_timer(REPLY_S, self._give_up, clock=self._steady_clock)

    def _give_up(self) -> None:
        self.has_given_up = True

    # Transitions

    @_logged
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and embed the words."""
        try:
            settings = self._config.settings
            initial = load_vocabulary(settings.node.vocabulary)
            segmenter = self._make_segmenter(settings.load)
            kept = settings.node.state_file
            state_file = StateFile(Path(kept).expanduser()) if kept else None
            self._words = words = Words(
                initial, segmenter, self._last_vocabulary, state_file, lambda text: self.warn(text)
            )
            self._segmenter = segmenter
            self._target_rate = TargetRate(
                segmenter.model.image_encoder,
                lambda: self._config.settings.node.target_rate,
                self.get_logger().info,
                lambda text: self._throttle.warn("target rate", text, 60.0),
            )
            for index, camera in enumerate(self.cameras):
                camera.configure(index)
            self._since = monotonic()
            self._serve_metrics(settings.node.metrics_port)
        except Exception:
            self._release()
            raise
        model = segmenter.model
        vocabulary = words.current.vocabulary
        self.get_logger().info(f"Loaded {model.name} on {model.device} with {len(vocabulary)} categories")
        if words.changed:
            self.get_logger().info(
                f"The words are those of the last run, version {vocabulary.version} in {kept}; "
                f"~/reset_vocabulary goes back to those of '{settings.node.vocabulary}'"
            )
        return super().on_configure(state)

    def _serve_metrics(self, port: int) -> None:
        if not port:
            return
        self._diagnostics.publish()  # The last figures are of a node that was not configured.
        name = self.get_fully_qualified_name()
        try:
            # The library is an extra.
            from ovs_ros.ros.metrics import MetricsServer

            self._metrics = MetricsServer(port, name, lambda: self._diagnostics.reports)
            return
        except ImportError as error:
            problem = f"{error}; install it: sudo apt install python3-prometheus-client"
        except OSError as error:
            problem = f"{error}; free the port, or start the node with another one"
        self.warn(f"Expected to serve metrics at port {port} (metrics_port), got {problem}. The node goes on")

    @_logged
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the worker and subscribe."""
        # Activate the publishers first: until then, what the worker publishes is lost.
        result = super().on_activate(state)
        try:
            self._start()
        except Exception:
            # Otherwise the worker would go on, and the next activation would start a second one.
            self._stop()
            super().on_deactivate(state)
            raise
        return result

    def _start(self) -> None:
        assert self._segmenter and self._words and self._target_rate
        self._hanging = [worker for worker in self._hanging if not worker.ended]
        for worker in self._hanging:
            seconds, where = worker.busy()
            raise RuntimeError(
                f"expected the last frame to have ended, got one that has been at work for {seconds:.0f} s, "
                f"in {where}; wait for it, or clean up and configure the node, which loads the model anew"
            )
        queue: FrameQueue[Frame] = FrameQueue(len(self.cameras), self._priorities)
        self._queue = queue
        pipelines = [
            camera.prepare(queue, index, self._words, self._recent)
            for index, camera in enumerate(self.cameras)
        ]
        self._workers = self._make_workers(queue, pipelines)
        for worker in self._workers:
            worker.start()
        queue.wake()
        self._since = monotonic()
        for camera in self.cameras:
            camera.open()
        topics = ", ".join(sorted({topic for camera in self.cameras for topic in camera.topics}))
        for name in self._parameter_overrides:
            if name.startswith("qos_overrides.") and not self.has_parameter(name):
                self._throttle.warn(
                    name,
                    f"The parameter '{name}' does not exist and is ignored. Name it "
                    "qos_overrides.TOPIC.subscription.POLICY, with the TOPIC after remapping, one of "
                    f"{topics}, and the POLICY one of history, depth, reliability, durability",
                )

    def _make_workers(self, queue: FrameQueue[Frame], pipelines: Sequence[Pipeline]) -> list[Worker[Any]]:
        """The threads that frames are worked on by; the image encoder belongs to the first one."""
        assert self._segmenter and self._target_rate
        model, timed = (self._segmenter, self._throttle), self._target_rate.frames_done
        if self._config.settings.node.propagate == OFF:
            return [Worker(queue, pipelines, *model, timed)]
        candidates: FrameQueue[Candidate] = FrameQueue(len(self.cameras), self._priorities)
        propagating = [
            camera.propagate(queue, index, candidates) for index, camera in enumerate(self.cameras)
        ]
        return [
            Worker(candidates, [one.encoding for one in propagating], *model, timed),
            Worker(queue, propagating, *model, name="propagation", patience=QUIET_S),
        ]

    @property
    def _encoder(self) -> Worker[Any] | None:
        """Whose thread the image encoder belongs to; None while the node is not active."""
        return self._workers[0] if self._workers else None

    @_logged
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, and wait a little for the frame at work."""
        self._stop()
        self.get_logger().info("Inactive: no images are taken")
        return super().on_deactivate(state)

    @_logged
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the model. Ids stay taken."""
        self._release()
        self.get_logger().info("Unconfigured: the model is released")
        return super().on_cleanup(state)

    @_logged
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop, and release the model."""
        self._stop()
        self._release()
        self.get_logger().info("Finalized: end this process, and start it again if it is needed")
        return super().on_shutdown(state)

    def finish(self, executor: Executor) -> None:
        """Let what waits for its end tell its results, before the node is destroyed."""
        self._look_for.finish(executor)

    def destroy_node(self) -> None:
        """End the worker and the services' thread, then destroy the node."""
        self._stop()
        self._release()
        self._vocabulary_services.close()
        self._diagnostics.destroy()
        self._look_for.destroy()
        self.destroy_timer(self._attending)
        super().destroy_node()

    def _stop(self) -> None:
        for camera in self.cameras:
            camera.close()
        for worker in stop_together(self._workers):
            _, where = worker.busy()
            self.get_logger().error(f"The frame at work does not end, in {where}; it is left behind")
            self._hanging.append(worker)
        if self._transforms is not None:
            self._transforms.close()
        self._workers = []
        self._queue = self._transforms = None
        self._look_for.end()
        self._since = monotonic()

    def _listen_to_tf(self) -> "Transforms":
        """One listener for all cameras, from when the first one needs it."""
        # tf2_ros is not part of every installation, and most nodes do not need it.
        from ovs_ros.ros.transforms import Transforms

        if self._transforms is None:
            self._transforms = Transforms(self)
        return self._transforms

    def _release(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        if self._words is not None:
            self._last_vocabulary = self._words.close()
        hangs = self._vocabulary_services.cancel() or any(not worker.ended for worker in self._hanging)
        self.left_behind = self.left_behind or hangs
        for camera in self.cameras:
            camera.release()
        self._segmenter = self._words = self._target_rate = None
        self._hanging = []  # They have the old model; the next one is another.

    def _watch(self) -> None:
        """Start a worker's thread again if it died."""
        for worker in self._workers:
            if reason := worker.revive():
                self.get_logger().error(f"The worker's thread died and is started again:\n{reason}")

    def _attend(self) -> None:
        for camera in self.cameras:
            camera.attend()

    def _wake(self) -> None:
        """Let the worker announce a change although no frame comes."""
        queue = self._queue
        if queue is not None:
            queue.wake()

    def _priorities(self) -> tuple[float, ...]:
        node = self._config.settings.node
        return node.each(node.priorities)

    def _condition(self) -> Condition:
        model = self._segmenter.model if self._segmenter else None
        vocabulary = self._words.current.vocabulary if self._words else None
        cache = self._segmenter.cache if self._segmenter else None
        sim_time = bool(self.get_parameter("use_sim_time").value)
        no_time = self.get_clock().now().nanoseconds == 0
        return Condition(
            state="active" if self._workers else "inactive" if self._words else "unconfigured",
            since=self._since,
            busy=max((worker.busy() for worker in self._workers), default=(0.0, "")),
            changes_waiting=self._vocabulary_services.waiting,
            change_hangs=self._vocabulary_services.hangs,
            deaths=sum(worker.deaths for worker in self._workers),
            died=max((worker.died for worker in self._workers if worker.died is not None), default=None),
            sim_time=sim_time,
            clock_missing=sim_time and no_time,
            failure=self.failure,
            vocabulary_version=vocabulary.version if vocabulary else 0,
            vocabulary_size=len(vocabulary) if vocabulary else 0,
            model=model.name if model else "",
            device=model.device if model else "",
            fallbacks=model.fallbacks if model else (),
            size=self._target_rate.state if self._target_rate else None,
            cache_problem=cache.problem if cache else "",
        )


def main() -> None:
    """Run the node until it is interrupted, or fails and `exit_on_failure` is set."""
    _find_log_folder()
    freed = shared_memory.remove_abandoned()
    warning = shared_memory.use_profile()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = OvsNode()
    except (InvalidParameterValueException, InvalidParameterTypeException) as error:
        sys.exit(f"ovs_node: {error}")
    if freed >= 2**20:
        what = f"{freed / 2**20:.0f} MiB that processes left there when they were killed"
        node.get_logger().info(f"Removed from {shared_memory.FOLDER}: {what}")
    if warning:
        node.get_logger().warning(warning)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    interrupted = threading.Event()

    def interrupt() -> None:
        interrupted.set()
        executor.create_task(lambda: None)  # Otherwise the executor waits for a message.

    interrupts.then(interrupt)
    try:
        while not (interrupted.is_set() or node.has_given_up):
            executor.spin_once()
        node.finish(executor)
    except ExternalShutdownException:
        pass
    finally:
        node.destroy_node()
        executor.shutdown()
        rclpy.try_shutdown()
    if node.left_behind:
        # The interpreter would end below the feet of a thread that is inside native code.
        if node.has_given_up:
            print(f"ovs_node: {node.failure}", file=sys.stderr)
        interrupts.leave(int(node.has_given_up))
    if node.has_given_up:
        sys.exit(f"ovs_node: {node.failure}")


def _find_log_folder() -> None:
    """Give ROS a temporary folder for its logs if it has none: rclpy.init fails without one."""
    if not any(os.environ.get(name) for name in ("ROS_LOG_DIR", "ROS_HOME")):
        home = os.path.expanduser("~")
        if not os.access(home, os.W_OK):
            os.environ["ROS_LOG_DIR"] = tempfile.mkdtemp(prefix="ovs_ros_log_")


if __name__ == "__main__":
    main()
