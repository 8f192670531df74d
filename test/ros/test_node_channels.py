"""Channels of probabilities over DDS."""

import numpy as np
import pytest
from rig import running, stamp_ms

TOPIC = "semantic/channels"


def test_words_have_their_channels_in_the_order_of_the_parameter(vocabulary):
    with running(vocabulary, channels=["blue", "cyan", "red"]) as robot:
        robot.listen(TOPIC)
        robot.connected()
        for ms in range(1, 1000):  # The first frames may come before the topic is connected.
            robot.segment(ms, [["red", "green", "blue"]])
            robot.of_stamp("semantic/categories", ms)
            if robot.got[TOPIC]:
                break
        image = robot.got[TOPIC][-1]
        labels = robot.labels(stamp_ms(image))
        confidence = robot.of_stamp("semantic/confidence", stamp_ms(image))
    assert (image.encoding, image.step, image.header) == ("32FC3", 96 * 3 * 4, labels.header)
    scores = np.frombuffer(image.data, "<f4").reshape(32, 96, 3)
    probability = np.frombuffer(confidence.data, np.uint8).reshape(32, 96) / 255
    assert (scores[..., 1] == 0).all() and (scores[:, 32:64] == 0).all()
    assert np.allclose(scores[:, :32, 2], probability[:, :32]) and (scores[:, :32, 2] > 0.5).all()
    assert np.allclose(scores[:, 64:, 0], probability[:, 64:])


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        (["red", " RED"], "each channel once"),
        (["?"], "a channel name with a letter"),
        ([f"word {i}" for i in range(65)], "at most 64 channels, got 65"),
    ],
)
def test_wrong_channels_are_told_at_configure(vocabulary, channels, message):
    with running(vocabulary, channels=channels, autostart=False) as robot:
        robot.node.trigger_configure()
        assert message in robot.node.failure
