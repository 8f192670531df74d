"""An engine's folder: the same for the same key, another one as soon as anything differs."""

from pathlib import Path

import pytest

from ovs_ros.runtime import engine_cache
from ovs_ros.runtime.engine_cache import (
    EngineKey,
    describe_gpu,
    engine_folder,
    tensorrt_version,
)
from ovs_ros.runtime.files import file_digest

KEY = EngineKey(
    "ab" * 32, "1x448x592x3", "fp16", "NVIDIA H200", "9.0 12080 release 1", "tensorrt 10.9.0.34", "1.22.0"
)


def test_the_same_key_gives_the_same_folder(tmp_path: Path) -> None:
    assert engine_folder(KEY, tmp_path) == engine_folder(EngineKey(*KEY), tmp_path)
    assert engine_folder(KEY, tmp_path).parent == tmp_path
    assert engine_folder(KEY, tmp_path).name.startswith("NVIDIA-H200-1x448x592x3-fp16-")


@pytest.mark.parametrize("name", EngineKey._fields)
def test_any_other_key_gives_another_folder(name: str) -> None:
    assert engine_folder(KEY._replace(**{name: "other"})) != engine_folder(KEY)


def test_every_release_of_tensorrt_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two packages only one is what ONNX Runtime loads, and nobody tells which."""
    packages = {"tensorrt": "11.0.0", "tensorrt-cu12": "10.3.0"}

    def version(name: str) -> str:
        if name not in packages:
            raise engine_cache.importlib.metadata.PackageNotFoundError(name)
        return packages[name]

    monkeypatch.setattr(engine_cache.importlib.metadata, "version", version)
    before = tensorrt_version()
    packages["tensorrt-cu12"] = "10.9.0"
    assert tensorrt_version() != before


def test_fields_do_not_run_into_each_other() -> None:
    assert engine_folder(KEY._replace(shape="1", precision="2fp16")) != engine_folder(
        KEY._replace(shape="12", precision="fp16")
    )


def test_folders_lie_beside_the_cached_embeddings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVS_ROS_CACHE", str(tmp_path))
    assert engine_folder(KEY).parent == tmp_path / "engines"


def test_no_name_leads_out_of_the_root(tmp_path: Path) -> None:
    folder = engine_folder(KEY._replace(gpu="../../etc"), tmp_path)
    assert folder.resolve().parent == tmp_path.resolve()


def test_digest_follows_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    before = file_digest(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"two")
    assert file_digest(tmp_path / "a") != before


@pytest.mark.skipif(Path("/dev/nvidia0").exists() or Path("/dev/nvmap").exists(), reason="has a GPU")
def test_without_a_driver_no_gpu_is_described() -> None:
    with pytest.raises(OSError):
        describe_gpu()
