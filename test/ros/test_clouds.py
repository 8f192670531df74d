from array import array

import numpy as np
import pytest
from fuzz import fuzz
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import PointCloud2, PointField

from ovs_ros.ros.clouds import cloud_from
from ovs_ros.ros.conversions import ConversionError

KINDS = {
    "<f4": PointField.FLOAT32,
    "<f8": PointField.FLOAT64,
    "u1": PointField.UINT8,
    "<u2": PointField.UINT16,
}


def message(values, padding=0):
    """A cloud of a structured array (H, W), with so many bytes after each row."""
    height, width = values.shape
    fields = [
        PointField(name=name, offset=offset, datatype=KINDS[np.dtype(kind).str.lstrip("|")], count=1)
        for name, (kind, offset) in values.dtype.fields.items()
    ]
    rows = b"".join(row.tobytes() + b"\xff" * padding for row in values)
    return PointCloud2(
        height=height,
        width=width,
        fields=fields,
        point_step=values.itemsize,
        row_step=width * values.itemsize + padding,
        data=array("B", rows),
    )


def layout(names, kinds, gap=0):
    offsets = np.cumsum([gap] + [np.dtype(kind).itemsize + gap for kind in kinds[:-1]]).tolist()
    itemsize = offsets[-1] + np.dtype(kinds[-1]).itemsize + gap
    return np.dtype({"names": names, "formats": kinds, "offsets": offsets, "itemsize": itemsize})


@given(
    st.permutations(["x", "y", "z", "ring"]),
    st.sampled_from(["<f4", "<f8"]),
    st.integers(0, 3),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(0, 5),
)
def test_any_layout_gives_the_same_points(names, kind, gap, height, width, padding):
    kinds = ["<u2" if name == "ring" else kind for name in names]
    values = np.zeros((height, width), layout(names, kinds, gap))
    expected = np.arange(height * width * 3, dtype=np.float32).reshape(-1, 3) / 7
    for axis, name in enumerate("xyz"):
        values[name] = expected[:, axis].reshape(height, width)
    cloud = cloud_from(message(values, padding))
    assert cloud.points.dtype == np.float32
    assert (cloud.points == expected).all()
    assert cloud.intensity is None


@pytest.mark.parametrize("kind", ["<f4", "u1", "<u2"])
def test_intensity_of_any_type(kind):
    values = np.zeros((1, 2), layout(["x", "y", "z", "intensity"], ["<f4"] * 3 + [kind]))
    values["intensity"] = [3, 200]
    intensity = cloud_from(message(values)).intensity
    assert intensity.dtype == np.float32
    assert intensity.tolist() == [3, 200]


def test_nan_stays_nan_and_what_float32_cannot_hold_is_infinite():
    values = np.zeros((1, 2), layout(["x", "y", "z"], ["<f8"] * 3))
    values["x"] = [np.nan, 1e300]
    points = cloud_from(message(values)).points
    assert np.isnan(points[0, 0])
    assert points[1, 0] == np.inf


def broken(**changes):
    result = message(np.zeros((2, 3), layout(["x", "y", "z"], ["<f4"] * 3)))
    for name, value in changes.items():
        setattr(result, name, value)
    return result


FLOAT = PointField.FLOAT32


@pytest.mark.parametrize(
    ("cloud", "text"),
    [
        (broken(is_bigendian=True), "expected a cloud of little-endian values, got a big-endian one"),
        (broken(fields=[]), "the fields x, y and z.*got no such x among no fields"),
        (
            broken(fields=[PointField(name=n, datatype=FLOAT, offset=4 * i) for i, n in enumerate("xyw")]),
            "no such z among 'x', 'y', 'w'",
        ),
        (
            broken(fields=[PointField(name=n, datatype=PointField.INT32, count=1) for n in "xyz"]),
            "of float32 or float64, got no such x",
        ),
        (broken(point_step=11), "fields x, y, z within the point_step of 11 bytes, got ends at 4, 8, 12"),
        (broken(row_step=35), "2 rows of 3 points of 12 bytes, got a row_step of 35"),
        (broken(data=array("B", bytes(71))), "and 71 bytes of data"),
        (broken(width=2**31), "bytes of data"),
    ],
)
def test_clouds_of_no_use_say_why(cloud, text):
    with pytest.raises(ConversionError, match=text):
        cloud_from(cloud)


@pytest.mark.fault("arbitrary clouds (fuzzed)", "read, or refused with what was expected and what came")
@fuzz
@given(
    st.lists(
        st.builds(
            PointField,
            name=st.sampled_from(["x", "y", "z", "intensity", ""]),
            offset=st.integers(0, 40),
            datatype=st.integers(0, 12),
            count=st.integers(0, 3),
        ),
        max_size=6,
    ),
    st.integers(0, 5),
    st.integers(0, 5),
    st.integers(0, 40),
    st.integers(0, 200),
    st.binary(max_size=400),
)
def test_no_message_whatever_raises_anything_else(fields, height, width, step, row, data):
    message = PointCloud2(height=height, width=width, fields=fields, point_step=step, row_step=row)
    message.data = array("B", data)
    try:
        cloud = cloud_from(message)
    except ConversionError:
        return
    assert cloud.points.shape == (height * width, 3)
    assert cloud.intensity is None or cloud.intensity.shape == (height * width,)
