"""The legend over DDS: names and colours of the overlay as markers."""

from rig import FRAME, running, stamp_ms
from visualization_msgs.msg import Marker

from ovs_ros.render import display_colors

TOPIC = "semantic/legend"


def test_a_frames_names_have_the_colours_of_the_overlay(vocabulary):
    with running(vocabulary) as robot:
        robot.listen(TOPIC)
        robot.connected()
        robot.until(lambda: robot.got[TOPIC] or robot.segment(1, [["red", "red", "black"]]), "an image")
        robot.segment(2, [["red", "red", "blue", "black"]])
        legend = robot.until(
            lambda: next((one for one in robot.got[TOPIC] if stamp_ms(one.markers[0]) == 2), None), TOPIC
        )
        clear, *rest = legend.markers
        assert clear.action == Marker.DELETEALL
        assert all(marker.header.frame_id == FRAME for marker in legend.markers)
        texts = [marker.text for marker in rest if marker.type == Marker.TEXT_VIEW_FACING]
        assert texts == ["red 50%", "blue 25%", "unknown 25%"]
        colors = display_colors(["red", "green", "blue"], [])
        swatches = [marker.color for marker in rest if marker.type == Marker.CUBE]
        for swatch, name in zip(swatches, ("red", "blue"), strict=False):
            assert (round(swatch.r * 255), round(swatch.g * 255), round(swatch.b * 255)) == colors[name]
        assert len({(marker.ns, marker.id) for marker in rest}) == len(rest) == 6
        rows = [marker.pose.position.y for marker in rest if marker.type == Marker.CUBE]
        assert rows == sorted(rows) and len(set(rows)) == 3  # y points down.
