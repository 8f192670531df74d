"""open_clip is imported beside any torchvision, and missed with the way to get it."""

from importlib.util import find_spec

import pytest
from clip_models import open_clip_or_skip

from ovs_ros.encoders.clip import imports


@pytest.mark.parametrize("package", ["torch", "open_clip"])
def test_a_missing_package_is_named_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setattr(imports, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(ModuleNotFoundError, match=rf"package {package},.*pip install '.\[clip\]'") as error:
        imports.import_open_clip()
    assert error.value.name == package


def test_torchvision_has_the_operators_that_its_import_asks_for() -> None:
    open_clip = open_clip_or_skip()
    import torch

    assert open_clip.__name__ == "open_clip"
    assert find_spec("torchvision") is not None
    assert torch.ops.torchvision.nms is not None
    assert imports.import_open_clip() is open_clip
