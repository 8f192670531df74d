"""One node over DDS: attributes of words, and a second image encoder."""

import numpy as np
from fakes import ColorImageEncoder
from onnx_encoders import save_encoder
from rig import pixels, running

from ovs_ros.encoders.feature_map import FeatureMapEncoder
from ovs_ros.encoders.fusion import FusionWeights
from ovs_ros.srv import GetVocabulary


def test_words_are_known_by_their_looks(tmp_path):
    (tmp_path / "words.yaml").write_text("categories: [thing, blue]\n")
    (tmp_path / "looks.yaml").write_text("thing: {color: red}\n")
    looks = {"attributes": str(tmp_path / "looks.yaml"), "attribute_weight": 1.0}
    with running(str(tmp_path / "words.yaml"), **looks) as robot:
        assert (pixels(robot.segment(1, [["red", "blue"]]))[:, :32] == 0).all()


def test_a_second_encoder_is_fused_in(tmp_path, vocabulary):
    """Its weights here make every patch blue."""
    save_encoder(tmp_path / "e.onnx", channels=8)
    second = FeatureMapEncoder(tmp_path / "e.onnx")
    blue = np.zeros(ColorImageEncoder.dim, np.float32)
    blue[5] = 1
    projection = np.zeros((8, len(blue)), np.float32)
    FusionWeights(np.array(0.0, np.float32), projection, blue, second.wanted, second.digest).save(
        tmp_path / "f.npz"
    )
    files = {"second_encoder": str(tmp_path / "e.onnx"), "fusion": str(tmp_path / "f.npz")}
    with running(vocabulary, **files) as robot:
        assert (pixels(robot.segment(1)) == 2).all()


def test_a_wrong_setting_keeps_the_node_unconfigured(vocabulary):
    with running(vocabulary, autostart=False, attributes="shiped") as robot:
        robot.node.trigger_configure()
        reply = robot.call(GetVocabulary, "ovs/get_vocabulary", GetVocabulary.Request())
        assert not reply.names
