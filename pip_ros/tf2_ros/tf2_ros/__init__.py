"""Stands in for tf2_ros: Buffer and TransformListener with the calls that the node makes.

A robot has tf2_ros from its distribution and never sees this.
"""

import bisect
import threading

import numpy as np
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.qos import DurabilityPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

CACHE_NS = 10_000_000_000


class TransformException(Exception):
    """Of all that goes wrong with transforms."""


class LookupException(TransformException):
    """A frame does not exist."""


class ConnectivityException(TransformException):
    """Two frames are in different trees."""


class ExtrapolationException(TransformException):
    """A transform is not known at the time asked for."""


class _Edge:
    """The transforms from a frame to its parent: translations (3,) and quaternions x, y, z, w (4,)."""

    def __init__(self, parent, static):
        self.parent, self.static = parent, static
        self.stamps, self.values = [], []

    def put(self, stamp, shift, turn):
        if self.static:
            self.stamps, self.values = [], []
        at = bisect.bisect(self.stamps, stamp)
        self.stamps.insert(at, stamp)
        self.values.insert(at, (shift, turn))
        while self.stamps[-1] - self.stamps[0] > CACHE_NS:
            del self.stamps[0], self.values[0]

    def at(self, stamp, names):
        """The (4, 4) matrix to the parent. 0 is the newest one."""
        if self.static or stamp == 0:
            return _matrix(*self.values[-1])
        if not self.stamps[0] <= stamp <= self.stamps[-1]:
            where = "past" if stamp < self.stamps[0] else "future"
            first, last = self.stamps[0] / 1e9, self.stamps[-1] / 1e9
            raise ExtrapolationException(
                f"Lookup would require extrapolation into the {where}. Requested time {stamp / 1e9:.6f} but "
                f"the data is from {first:.6f} to {last:.6f}, when looking up transform {names}"
            )
        after = bisect.bisect_left(self.stamps, stamp)
        if self.stamps[after] == stamp:
            return _matrix(*self.values[after])
        (shift_a, turn_a), (shift_b, turn_b) = self.values[after - 1 : after + 1]
        share = (stamp - self.stamps[after - 1]) / (self.stamps[after] - self.stamps[after - 1])
        return _matrix(shift_a + (shift_b - shift_a) * share, _slerp(turn_a, turn_b, share))


class Buffer:
    """Keeps ten seconds of transforms."""

    def __init__(self, cache_time=None, node=None):
        self._lock = threading.Lock()
        self._edges = {}

    def set_transform(self, transform, authority):
        self._put(transform, False)

    def set_transform_static(self, transform, authority):
        self._put(transform, True)

    def _put(self, message, static):
        frame, parent = message.child_frame_id.lstrip("/"), message.header.frame_id.lstrip("/")
        stamp = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        t, q = message.transform.translation, message.transform.rotation
        with self._lock:
            edge = self._edges.get(frame)
            if edge is None or edge.parent != parent:
                edge = self._edges[frame] = _Edge(parent, static)
            edge.put(stamp, np.array([t.x, t.y, t.z]), np.array([q.x, q.y, q.z, q.w]))

    def lookup_transform(self, target_frame, source_frame, time, timeout=None):
        """The transform from the source to the target at a time."""
        with self._lock:
            return self._between(target_frame, time.nanoseconds, source_frame, time.nanoseconds, None)

    def lookup_transform_full(
        self, target_frame, target_time, source_frame, source_time, fixed_frame, timeout=None
    ):
        """The transform from the source at one time to the target at another one, through a fixed frame."""
        with self._lock:
            return self._between(
                target_frame, target_time.nanoseconds, source_frame, source_time.nanoseconds, fixed_frame
            )

    def _between(self, target, target_stamp, source, source_stamp, fixed):
        names = f"from frame [{source}] to frame [{target}]"
        known = set(self._edges) | {edge.parent for edge in self._edges.values()}
        for frame in (target, source, fixed):
            if frame is not None and frame not in known:
                raise LookupException(f'"{frame}" passed to lookupTransform does not exist.')
        if fixed is None:
            matrix = self._path(target, source, source_stamp, names)
        else:
            to_target = self._path(target, fixed, target_stamp, names)
            matrix = to_target @ self._path(fixed, source, source_stamp, names)
        result = TransformStamped(child_frame_id=source)
        result.header.frame_id = target
        result.header.stamp.sec, result.header.stamp.nanosec = divmod(target_stamp, 1_000_000_000)
        x, y, z, w = _quaternion(matrix[:3, :3])
        result.transform = Transform(
            translation=Vector3(x=matrix[0, 3], y=matrix[1, 3], z=matrix[2, 3]),
            rotation=Quaternion(x=x, y=y, z=z, w=w),
        )
        return result

    def _path(self, target, source, stamp, names):
        up, down = self._ancestors(source), self._ancestors(target)
        common = next((frame for frame in up if frame in down), None)
        if common is None:
            raise ConnectivityException(
                f"Could not find a connection between '{target}' and '{source}' because they are not part of "
                "the same tree. Tf has two or more unconnected trees."
            )
        return np.linalg.inv(self._up(target, common, stamp, names)) @ self._up(source, common, stamp, names)

    def _ancestors(self, frame):
        found = [frame]
        while found[-1] in self._edges and self._edges[found[-1]].parent not in found:
            found.append(self._edges[found[-1]].parent)
        return found

    def _up(self, frame, ancestor, stamp, names):
        matrix = np.eye(4)
        while frame != ancestor:
            matrix = self._edges[frame].at(stamp, names) @ matrix
            frame = self._edges[frame].parent
        return matrix


class TransformListener:
    """Fills a buffer from /tf and /tf_static."""

    def __init__(self, buffer, node, *, spin_thread=False, qos=None, static_qos=None):
        if spin_thread:
            raise NotImplementedError("expected spin_thread=False: this stand-in has no thread of its own")
        self.node, self.group = node, ReentrantCallbackGroup()
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)

        def taker(put):
            def take(message):
                for transform in message.transforms:
                    put(transform, "default_authority")

            return take

        self.tf_sub = node.create_subscription(
            TFMessage, "/tf", taker(buffer.set_transform), qos or 100, callback_group=self.group
        )
        self.tf_static_sub = node.create_subscription(
            TFMessage,
            "/tf_static",
            taker(buffer.set_transform_static),
            static_qos or latched,
            callback_group=self.group,
        )

    def unregister(self):
        self.node.destroy_subscription(self.tf_sub)
        self.node.destroy_subscription(self.tf_static_sub)


def _matrix(shift, turn):
    x, y, z, w = turn / np.linalg.norm(turn)
    result = np.eye(4)
    result[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    result[:3, 3] = shift
    return result


def _quaternion(turn):
    """x, y, z, w of a rotation (3, 3): the eigenvector of Bar-Itzhack's matrix (2000)."""
    (a, b, c), (d, e, f), (g, h, i) = turn
    symmetric = np.array(
        [
            [a - e - i, 0, 0, 0],
            [b + d, e - a - i, 0, 0],
            [c + g, f + h, i - a - e, 0],
            [h - f, c - g, d - b, a + e + i],
        ]
    )
    _, vectors = np.linalg.eigh(symmetric)
    return [float(value) for value in vectors[:, -1]]


def _slerp(a, b, share):
    cosine = float(a @ b)
    if cosine < 0:
        b, cosine = -b, -cosine
    if cosine > 0.9995:
        return a + (b - a) * share
    angle = np.arccos(cosine)
    return (np.sin((1 - share) * angle) * a + np.sin(share * angle) * b) / np.sin(angle)
