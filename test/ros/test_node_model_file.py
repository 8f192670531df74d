"""The node with a model file in place of the embedded model: a real CLIP of open_clip, in small."""

import pytest
from clip_models import open_clip_or_skip, register_small
from rig import pixels, running

open_clip_or_skip()

import open_clip  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

import ovs_ros  # noqa: E402
from ovs_ros.srv import SetVocabulary  # noqa: E402


@pytest.fixture
def model_file(tmp_path):
    name = register_small(tmp_path, "vit")
    clip = open_clip.create_model(name)
    save_file(
        {key: value.contiguous() for key, value in clip.state_dict().items()}, tmp_path / "w.safetensors"
    )
    path = tmp_path / "clip.yaml"
    path.write_text(f"model: {name}\nweights: w.safetensors\npatches: 48\ndevice: cpu\nprecision: fp32\n")
    return path


def test_a_model_file_streams_takes_words_and_names_its_device(vocabulary, model_file):
    with running(vocabulary, lambda load: ovs_ros.load(load.model), model=str(model_file)) as robot:
        first = robot.segment(1)
        assert set(pixels(first).ravel().tolist()) <= {0, 1, 2, 255}
        assert robot.of_stamp("semantic/categories", 1).version == 1
        request = SetVocabulary.Request(mode=SetVocabulary.Request.REPLACE, names=["cup", "desk"])
        reply = robot.call(SetVocabulary, "ovs/set_vocabulary", request)
        assert reply.success, reply.message
        second = robot.segment(2)
        assert set(pixels(second).ravel().tolist()) <= {*reply.ids, 255}
        robot.listen("/diagnostics")
        robot.until(
            lambda: any(
                value.value == "cpu"
                for message in robot.got["/diagnostics"]
                for status in message.status
                for value in status.values
                if value.key == "device"
            ),
            "diagnostics with the device",
        )
