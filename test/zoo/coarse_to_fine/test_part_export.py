"""FGAseg's parts run in ONNX Runtime with any grid and any number of categories."""

import io

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")
onnxruntime = pytest.importorskip("onnxruntime")

from ovs_ros.training.networks.auxiliary import AuxiliaryHead  # noqa: E402
from ovs_ros.zoo.coarse_to_fine.local_kernels import LocalKernels  # noqa: E402
from ovs_ros.zoo.coarse_to_fine.pixel_to_text import PixelToText  # noqa: E402

GRID = {1: "rows", 2: "columns"}
CATEGORIES = {1: "categories"}


def words(categories: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(1, categories, 3, 16), dim=-1)


def texts(categories: int) -> torch.Tensor:
    return words(categories)[:, :, 0]


def patches(rows: int, cols: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(1, rows, cols, 16), dim=-1)


def inputs(part, categories: int, rows: int, cols: int) -> dict[str, torch.Tensor]:
    match part:
        case AuxiliaryHead():
            return {"patches": patches(rows, cols), "words": words(categories)}
        case LocalKernels():
            return {"texts": texts(categories), "visual": patches(rows, cols)}
        case _:
            return {"words": words(categories), "visual": patches(rows, cols)}


AXES = {"patches": GRID, "visual": GRID, "words": CATEGORIES, "texts": CATEGORIES}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda: PixelToText(16, 16, start=0.3),
        lambda: LocalKernels(16, 16, channels=4),
        lambda: LocalKernels(16, 16, channels=4, kernel=9),
        lambda: AuxiliaryHead(16, hidden=8),
    ],
)
def test_the_graph_computes_the_same(make) -> None:
    torch.manual_seed(0)
    part = make().eval()
    if isinstance(part, AuxiliaryHead):
        torch.nn.init.normal_(part.narrow.weight)
    example = inputs(part, 5, 4, 6)
    file = io.BytesIO()
    # The exporter's successor needs onnxscript, which nothing else here needs.
    torch.onnx.export(
        part,
        tuple(example.values()),
        file,
        dynamo=False,
        opset_version=17,
        input_names=list(example),
        output_names=["out"],
        dynamic_axes={name: AXES[name] for name in example} | {"out": dict.fromkeys(range(1, 4), "any")},
    )
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    other = inputs(part, 9, 7, 5)
    with torch.no_grad():
        want = part(*other.values()).numpy()
    (got,) = session.run(None, {name: value.numpy() for name, value in other.items()})
    np.testing.assert_allclose(got, want, atol=1e-5)
