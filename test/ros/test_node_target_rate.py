"""One node over DDS with `target_rate`: frames of a slow model become smaller, and large again."""

from fakes import ColorTextEncoder, SlowColors
from rig import running
from test_node_parameters import set_parameter

from ovs_ros.model import Model
from ovs_ros.segmenter import Segmenter


def test_a_slow_model_gets_smaller_frames_until_nothing_is_asked(vocabulary):
    encoder = SlowColors(per_patch_s=1e-4)  # 77 ms a frame
    segmenter = Segmenter(Model(encoder, ColorTextEncoder()))
    with running(vocabulary, make_segmenter=lambda load: segmenter, target_rate=20.0) as robot:
        robot.listen("/diagnostics")
        ms = 0

        def frames_until(condition):
            nonlocal ms
            while not condition():
                ms += 1
                robot.segment(ms)

        frames_until(lambda: encoder.patches < 768)

        def told():
            for array in robot.got["/diagnostics"]:
                for status in array.status:
                    figures = {pair.key: pair.value for pair in status.values}
                    if figures.get("patches", "768 of 768") != "768 of 768":
                        return figures
            return None

        figures = robot.until(told, "the size in /diagnostics")
        assert figures["patches"].endswith(" of 768")
        assert "target_rate leaves 50 ms" in figures["patches: reason"]
        assert set_parameter(robot, "target_rate", 0.0).successful
        frames_until(lambda: encoder.patches == 768)
