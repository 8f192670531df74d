"""Whatever file a command is given, it ends soon, in little memory, with one line that names the file."""

import io
import json
import os
import signal
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fakes import color_image, load_color_segmenter
from fuzz import fuzz
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import ovs_ros
from ovs_ros.cli.main import app
from ovs_ros.encoders.manifest import FILE as MANIFEST
from ovs_ros.encoders.model_file import read_model_file
from ovs_ros.runtime.images import read_image, write_image
from ovs_ros.runtime.yaml_file import MOST_LEVELS
from ovs_ros.vocabulary.yaml_io import load_vocabulary

pytestmark = pytest.mark.fault(
    "hostile files at the command line", "one line that names the file, soon and in little memory"
)
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML = {
    "alias bomb": BOMB,
    "alias bomb in a list": BOMB.replace("a: &a", "categories: &a", 1),
    "merge bomb": MERGES,
    "nested": "[" * 100_000,
    "nested mapping": "{a: " * 100_000,
    "nested lines": "".join(" " * depth + "- \n" for depth in range(1500)),
    "huge": "- word\n" * 1_000_000,
    "huge number": "categories: [{name: a, threshold: 1" + ":1" * 100_000 + "}]",
    "binary": "\0\x01\x02",
    "python": "!!python/object/apply:os.system ['true']",
    "escape": '"\\UFFFFFFFF"',
    "float": "model: !!float null",
}


@pytest.fixture(autouse=True)
def soon():
    def late(*_):
        raise AssertionError("it did not end")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60 + fuzz.max_examples // 10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def fake_model(monkeypatch):
    monkeypatch.setattr(ovs_ros, "load", load_color_segmenter)


def refused(*arguments, code=2):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output[-500:], result.exception)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.stderr.count("\n") == code - 1 or code == 1
    assert len(result.stderr) < 1500
    return result.stderr


def special(tmp_path: Path, kind: str, name: str) -> Path:
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_pipes_and_devices_are_not_waited_for(tmp_path, fake_model, kind):
    image = special(tmp_path, kind, "a.png")
    video = special(tmp_path, kind, "a.mp4")
    words = special(tmp_path, kind, "words.yaml")
    write_image(tmp_path / "good.png", color_image([["red"]]))
    out = tmp_path / "out"
    for source in (image, video):
        refused("segment", source, "-o", out, "--words", "red")
    refused("segment", tmp_path / "good.png", "-o", out, "--vocabulary", words)
    refused("vocabulary", "lint", words)
    refused("vocabulary", "show", words)
    refused("vocabulary", "teach", tmp_path / "new.yaml", "a", image, "--box", "0,0,1,1")
    refused("vocabulary", "teach", words, "a", tmp_path / "good.png", "--box", "0,0,1,1")
    folder = tmp_path / "set"
    for part in ("image", "label"):
        (folder / part).mkdir(parents=True)
        write_image(folder / part / "a.png", np.zeros((8, 8), np.uint8))
    refused("evaluate", folder, "--classes", words)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_nor_as_models(tmp_path, kind):
    write_image(tmp_path / "good.png", color_image([["red"]]))
    path = special(tmp_path, kind, "model.yaml")
    refused("segment", tmp_path / "good.png", "-o", tmp_path / "out", "--words", "red", "--model", path)


@pytest.mark.parametrize("name", YAML)
def test_yaml(tmp_path, fake_model, name):
    path = tmp_path / "hostile.yaml"
    path.write_text(YAML[name])
    if name != "python":  # Of words, tags mean nothing.
        assert str(path) in refused("vocabulary", "show", path)
    with pytest.raises(ValueError, match="hostile.yaml") as error:
        read_model_file(path)
    assert len(str(error.value)) < 1000 and "\n" not in str(error.value)


@pytest.mark.parametrize("level", ["[", "{a: "])
def test_levels_have_a_limit_of_their_own(tmp_path, monkeypatch, level):
    """The time for them grows with their square."""
    path = tmp_path / "hostile.yaml"
    path.write_text(level * 10_000)
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)  # mypy and torch raise it too.
    try:
        for read in (load_vocabulary, read_model_file):
            with pytest.raises(ValueError, match=f"more than {MOST_LEVELS} levels"):
                read(path)
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.parametrize(
    "content",
    [
        "[" * 200_000,
        '{"a": ' * 100_000,
        "{}",
        "[]",
        '{"format": 2}',
        "1" * 100_000,
        json.dumps({"format": 2, "digest": "x", "name": "y" * 10_000}),
    ],
    ids=lambda text: text[:20],
)
def test_manifests(tmp_path, content):
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / MANIFEST).write_text(content)
    write_image(tmp_path / "good.png", color_image([["red"]]))
    arguments = ("segment", tmp_path / "good.png", "-o", tmp_path / "out", "--words", "red")
    assert MANIFEST in refused(*arguments, "--model", tmp_path / "exported")


def npz_bomb() -> bytes:
    """A few kilobytes that unpack to 400 MB."""
    data = io.BytesIO()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (100_000_000,)}
    )
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("weight.npy", "w") as part:
        part.write(header.getvalue())
        for _ in range(400):
            part.write(bytes(1_000_000))
    return data.getvalue()


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\x93NUMPY\1\0", None], ids=["", "zip", "npy", "bomb"])
def test_npz(tmp_path, content):
    folder = tmp_path / "models"
    folder.mkdir()
    models = Path(ovs_ros.__file__).parent / "models"
    for name in ("image_encoder.onnx", "text_encoder.onnx", "tokenizer.json", "seen_words.txt"):
        (folder / name).symlink_to(models / name)
    (folder / "text_head.npz").write_bytes(npz_bomb() if content is None else content)
    write_image(tmp_path / "good.png", color_image([["red"]]))
    arguments = ("segment", tmp_path / "good.png", "-o", tmp_path / "out", "--words", "red")
    assert "text_head.npz" in refused(*arguments, "--model", folder)


@pytest.mark.parametrize("content", [b"", b"no network", b"\x08\x07" + b"\xff" * 1000])
def test_onnx(tmp_path, content):
    (tmp_path / "network.onnx").write_bytes(content)
    write_image(tmp_path / "good.png", color_image([["red"]]))
    arguments = ("segment", tmp_path / "good.png", "-o", tmp_path / "out", "--words", "red")
    (tmp_path / "model.yaml").write_text("model: stream\nnetwork: network.onnx\n")
    assert "network.onnx" in refused(*arguments, "--model", tmp_path / "model.yaml")


@fuzz
@given(st.one_of(st.binary(max_size=60), st.text(alphabet="model: [{}]'\"&*!|>-\n 1", max_size=40)))
def test_any_model_file_is_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz_model.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        read_model_file(path)
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error) and len(str(error)) < 1500


@fuzz
@given(st.binary(max_size=200))
def test_any_file_is_an_image_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.png"
    path.write_bytes(content)
    try:
        assert read_image(path).shape[2] == 3
    except ValueError as error:
        assert str(path) in str(error)
