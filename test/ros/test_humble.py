"""Humble has no wheels on PyPI: mypy holds the sources against its recorded API, humble_api/rclpy/*.pyi.

The stubs give names and signatures of rclpy 3.3 without its private parts.
"""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROS_SOURCES = HERE.parents[1] / "ovs_ros" / "ros"
CONFIG = f"""
[mypy]
mypy_path = {HERE / "humble_api"}
python_version = 3.10
check_untyped_defs = True
follow_imports = silent
ignore_missing_imports = True
[mypy-rclpy,rclpy.*]
ignore_missing_imports = False
# Kilted and Jazzy have this module; where it is missing, the node imports rclpy.qos_event instead.
[mypy-rclpy.event_handler]
ignore_missing_imports = True
# Nothing of these matters here, and they are large.
[mypy-numpy.*,cv2.*,torch.*,timm.*,onnx.*,onnxruntime.*,open_clip.*,skimage.*,sensor_msgs.*]
follow_imports = skip
"""
MISSING = ("[attr-defined]", "[call-arg]", "[import-not-found]", "[import-untyped]", "[union-attr]")


LATER = (
    "import rclpy.events",
    "from rclpy.lifecycle import LifecyclePublisherEvents",
    "Node('a').add_post_set_parameters_callback(print)",
    "Node('a').create_subscription(str, 'topic', print, 1, content_filter_options=None)",
    "Node('a').create_timer(1.0, print, autostart=False)",
    "Node('a').executor.create_future()",
)


@pytest.fixture(scope="module")
def missing_on_humble(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What mypy says about names, modules and keywords that Humble does not have.

    It looks at the package and, for each of LATER, at a file later_INDEX.py.
    """
    folder = tmp_path_factory.mktemp("humble")
    for index, line in enumerate(LATER):
        (folder / f"later_{index}.py").write_text(f"from rclpy.node import Node\n{line}\n")
    config = folder / "mypy.ini"
    config.write_text(CONFIG)
    options = ["--config-file", str(config), "--cache-dir", str(folder / "cache"), "--show-absolute-path"]
    # In this process it would leave 1.4 million objects, and each later garbage collection would take 1.5 s.
    command = [sys.executable, "-m", "mypy", *options, str(ROS_SOURCES), *folder.glob("later_*.py")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert not ended.stderr, ended.stderr
    lines = [line for line in ended.stdout.splitlines() if str(HERE / "humble_api") not in line]
    return [line for line in lines if line.endswith(MISSING) and 'Item "None"' not in line]


def test_humble_has_all_of_rclpy_that_the_package_uses(missing_on_humble):
    assert [line for line in missing_on_humble if "/later_" not in line] == []


@pytest.mark.parametrize("index", range(len(LATER)), ids=LATER)
def test_what_humble_lacks_is_found(missing_on_humble, index):
    assert sum(f"/later_{index}.py" in line for line in missing_on_humble) == 1
