"""PointCloud2 messages as arrays."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2, PointField

from ovs_ros.ros.conversions import ConversionError
from ovs_ros.runtime.quoting import quoted_list

_TYPES = {
    PointField.INT8: "i1",
    PointField.UINT8: "u1",
    PointField.INT16: "<i2",
    PointField.UINT16: "<u2",
    PointField.INT32: "<i4",
    PointField.UINT32: "<u4",
    PointField.FLOAT32: "<f4",
    PointField.FLOAT64: "<f8",
}
_COORDINATES = ("x", "y", "z")
_FRACTIONS = (PointField.FLOAT32, PointField.FLOAT64)


@dataclass(frozen=True, eq=False)
class Cloud:
    """The points of a message, in its order.

    Attributes:
        points: (N, 3) float32, metres in the message's frame; NaN where the sensor saw nothing.
        intensity: (N,) float32 in the sensor's own unit, None if the message has none.
    """

    points: NDArray[np.float32]
    intensity: NDArray[np.float32] | None


def cloud_from(message: PointCloud2) -> Cloud:
    """The points of an organised or unorganised cloud, whatever other fields it has; copied.

    Raises:
        ConversionError: no x, y and z of float32 or float64, big-endian values, or steps and data that do not
            fit.
    """
    if message.is_bigendian:
        raise ConversionError(
            "expected a cloud of little-endian values, got a big-endian one; convert it before"
        )
    fields = {field.name: field for field in message.fields}
    missing = [n for n in _COORDINATES if n not in fields or fields[n].datatype not in _FRACTIONS]
    if missing:
        raise ConversionError(
            f"expected a cloud with the fields x, y and z of float32 or float64, got no such {missing[0]} "
            f"among {quoted_list(fields) or 'no fields'}"
        )
    used = [fields[name] for name in _COORDINATES]
    if "intensity" in fields and fields["intensity"].datatype in _TYPES:
        used.append(fields["intensity"])
    names = [field.name for field in used]
    kinds = [_TYPES[field.datatype] for field in used]
    offsets = [field.offset for field in used]
    height, width, step = message.height, message.width, message.point_step
    ends = [field.offset + np.dtype(_TYPES[field.datatype]).itemsize for field in used]
    if max(ends) > step:
        raise ConversionError(
            f"expected the fields {', '.join(names)} within the point_step of {step} bytes, got ends at "
            f"{', '.join(map(str, ends))}; the driver fills in the message wrongly"
        )
    row = message.row_step if height > 1 else width * step
    if row < width * step or len(message.data) < height * row:
        raise ConversionError(
            f"expected {height} rows of {width} points of {step} bytes, got a row_step of "
            f"{message.row_step} and {len(message.data)} bytes of data; the driver fills in the message "
            "wrongly"
        )
    layout = np.dtype({"names": names, "formats": kinds, "offsets": offsets, "itemsize": step})
    if height * width == 0:
        raw: NDArray[Any] = np.empty((0, 0), layout)
    else:
        raw = np.ndarray((height, width), layout, np.frombuffer(message.data, np.uint8), 0, (row, step))
    points = np.empty((height * width, 3), np.float32)
    with np.errstate(over="ignore"):  # A float64 beyond float32 becomes infinite, and is not seen.
        for axis, name in enumerate(_COORDINATES):
            points[:, axis] = raw[name].reshape(-1)
    intensity = raw["intensity"].astype(np.float32).reshape(-1) if len(names) > 3 else None
    return Cloud(points, intensity)
