"""A network whose tensors lie in other files is refused, wherever the tensor is."""

import numpy as np
import pytest
from fuzz import fuzz
from hypothesis import given
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper  # noqa: E402

from ovs_ros.encoders.embedded import MODELS  # noqa: E402
from ovs_ros.runtime.onnx import open_session  # noqa: E402
from ovs_ros.runtime.onnx_file import refuse_external_data  # noqa: E402

pytestmark = pytest.mark.fault(
    "a network that names other files of the machine", "refused before it is opened"
)


def tensor(where):
    made = TensorProto(name="w", data_type=1, dims=[4])
    if where is None:
        made.raw_data = np.arange(4, dtype=np.float32).tobytes()
    else:
        made.data_location = TensorProto.EXTERNAL
        made.external_data.add(key="location", value=where)
    return made


def value(name):
    return helper.make_tensor_value_info(name, 1, [4])


def network(place, where):
    """An addition, whose second number lies in an initializer, an attribute, or a graph in one."""
    if place == "initializer":
        nodes, tensors = [helper.make_node("Add", ["x", "w"], ["y"])], [tensor(where)]
    elif place == "attribute":
        nodes, tensors = [helper.make_node("Constant", [], ["w"], value=tensor(where))], []
        nodes.append(helper.make_node("Add", ["x", "w"], ["y"]))
    else:
        inner = [helper.make_node("Constant", [], ["inner"], value=tensor(where))]
        branch = helper.make_graph(inner, "branch", [], [value("inner")])
        yes = helper.make_node(
            "Constant", [], ["yes"], value=helper.make_tensor("t", TensorProto.BOOL, [], [1])
        )
        nodes = [yes, helper.make_node("If", ["yes"], ["w"], then_branch=branch, else_branch=branch)]
        nodes.append(helper.make_node("Add", ["x", "w"], ["y"]))
        tensors = []
    graph = helper.make_graph(nodes, "graph", [value("x")], [value("y")], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("place", ["initializer", "attribute", "branch"])
def test_tensors_in_other_files_are_refused(tmp_path, place):
    path = tmp_path / "model.onnx"
    path.write_bytes(network(place, None).SerializeToString())
    open_session(path)
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    for where in ("weights.bin", "../secret", "/etc/passwd"):
        path.write_bytes(network(place, where).SerializeToString())
        with pytest.raises(ValueError, match=r"in one file in .*model\.onnx, got one whose tensors lie"):
            open_session(path)


@pytest.mark.parametrize("name", ["image_encoder.onnx", "text_encoder.onnx"])
def test_what_ships_is_one_file(name):
    refuse_external_data(MODELS / name)


@fuzz
@given(st.data())
def test_damaged_files_pass_or_are_refused(tmp_path_factory, data):
    content = bytearray(network("branch", None).SerializeToString())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzz.onnx"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        refuse_external_data(path)
    except ValueError as error:
        assert str(path) in str(error)
        return
    try:
        seen = onnx.ModelProto.FromString(path.read_bytes())
    except Exception:
        return
    assert not any(one.external_data or one.data_location for one in seen.graph.initializer)
