import numpy as np

from ovs_ros.geometry.ply import write_ply


def test_finite_points_are_written_as_said(tmp_path):
    xyz = np.array([[[1, 2, 3], [np.nan, 2, 3]], [[4, 5, 6.5], [7, np.inf, 9]]], np.float32)
    rgb = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    labels = np.array([[7, 1], [65535, 2]], np.uint16)
    confidence = np.array([[200, 1], [100, 2]], np.uint8)

    assert write_ply(tmp_path / "a.ply", xyz, rgb, labels, confidence, {7: "office chair"}) == 2

    header, _, body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    lines = header.decode().splitlines()
    assert lines[0] == "ply" and lines[1] == "format binary_little_endian 1.0"
    assert "comment label 7 office chair" in lines and "element vertex 2" in lines
    properties = [line.split()[1:] for line in lines if line.startswith("property")]
    dtype = np.dtype(
        [(name, {"float": "<f4", "uchar": "u1", "ushort": "<u2"}[kind]) for kind, name in properties]
    )
    points = np.frombuffer(body, dtype)
    assert [tuple(point) for point in points[["x", "y", "z"]]] == [(1, 2, 3), (4, 5, 6.5)]
    assert [tuple(point) for point in points[["red", "green", "blue"]]] == [(0, 1, 2), (6, 7, 8)]
    assert points["label"].tolist() == [7, 65535]
    assert points["confidence"].tolist() == [200, 100]
