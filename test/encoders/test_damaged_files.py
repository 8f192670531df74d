"""A damaged file of a model is refused with its name and a remedy, and never gives other labels."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from fuzz import fuzz
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import ovs_ros
from ovs_ros.cli.main import app
from ovs_ros.encoders.embedded import ENCODER_FILES, MODELS
from ovs_ros.runtime import checksums
from ovs_ros.runtime.checksums import FILE, check_files, update_checksum, write_checksums
from ovs_ros.runtime.files import file_digest, joint_digest, read_file
from ovs_ros.runtime.images import write_image

pytestmark = pytest.mark.fault("damaged model files", "refused by the file's name, before anything is opened")
LISTED = [line.split("  ")[1] for line in (MODELS / FILE).read_text().splitlines()]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The embedded model's files, as links that a test replaces."""
    folder = tmp_path / "models"
    folder.mkdir()
    for name in [*LISTED, FILE]:
        (folder / name).symlink_to(MODELS / name)
    return folder


def damage(path: Path, change: str) -> None:
    content = bytearray(path.read_bytes())
    path.unlink()
    if change == "flipped":
        content[len(content) // 2] ^= 1
    elif change == "cut":
        content = content[: len(content) // 2]
    elif change == "empty":
        content = bytearray()
    path.write_bytes(content)


def test_all_that_ships_has_a_checksum() -> None:
    names = {path.name for path in MODELS.iterdir() if path.is_file() and path.suffix != ".md"}
    assert set(LISTED) == names - {FILE}
    check_files(MODELS, ENCODER_FILES)


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize("change", ["flipped", "cut", "empty"])
def test_damage_is_found_before_anything_is_opened(models: Path, name: str, change: str) -> None:
    damage(models / name, change)
    with pytest.raises(ValueError, match=r"got a file with another SHA-256; reinstall ovs_ros") as error:
        ovs_ros.load(models)
    assert str(models / name) in str(error.value)


@pytest.mark.parametrize("name", ["text_encoder.onnx", "calibration.json"])
def test_a_missing_file_is_named(models: Path, name: str) -> None:
    (models / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"expected .*{name}, which checksums.txt lists, found none"):
        ovs_ros.load(models)


@pytest.mark.parametrize("name", ENCODER_FILES)
@pytest.mark.parametrize("change", ["cut", "empty", "flipped"])
def test_without_checksums_a_damaged_file_is_named_or_works(models: Path, name: str, change: str) -> None:
    (models / FILE).unlink()
    damage(models / name, change)
    try:
        ovs_ros.load(models)
    except ValueError as error:
        assert str(models / name) in str(error)
        assert "\n" not in str(error) and len(str(error)) < 700
    else:
        assert change == "flipped"


def test_a_run_without_checksums_loads(models: Path) -> None:
    (models / FILE).unlink()
    words = ovs_ros.Vocabulary.from_names(["red"])
    segmenter = ovs_ros.load(models)
    segmenter.segment(np.zeros((32, 32, 3), np.uint8), segmenter.embed(words))


@fuzz
@given(st.integers(0), st.integers(1, 255), st.booleans())
def test_damaged_checksums_pass_nothing_unseen(place: int, bits: int, cut: bool) -> None:
    content = bytearray((MODELS / FILE).read_bytes())
    at = place % len(content)
    if cut:
        content = content[:at]
    else:
        content[at] ^= bits
    folder = Path("/nonexistent")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checksums, "read_file", lambda *_: bytes(content))
        try:
            listed = checksums._read(folder)
        except ValueError as error:
            assert str(folder) in str(error)
            return
    digests = {name: file_digest(MODELS / name) for name in LISTED}
    wrong = [name for name, digest in listed.items() if digests.get(name) != digest]
    lost = [name for name in ENCODER_FILES if name not in listed]
    # What is cut away after the encoders' files is not missed; a last line that is cut is.
    assert wrong or lost or cut or bytes(content).split() == (MODELS / FILE).read_bytes().split()


def test_the_command_says_it_in_one_line(models: Path) -> None:
    damage(models / "text_head.npz", "flipped")
    write_image(models / "a.png", np.zeros((32, 32, 3), np.uint8))
    arguments = ["segment", str(models / "a.png"), "-o", str(models / "out"), "--words", "red"]
    result = CliRunner().invoke(app, [*arguments, "--model", str(models)])
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert "text_head.npz as it was published" in result.stderr


def test_a_file_that_was_changed_on_purpose_gets_its_checksum(models: Path) -> None:
    damage(models / "calibration.json", "flipped")
    (models / FILE).unlink()
    shutil.copy(MODELS / FILE, models / FILE)
    update_checksum(models / "calibration.json")
    check_files(models, ENCODER_FILES)
    damage(models / "text_head.npz", "flipped")
    with pytest.raises(ValueError, match="python -m ovs_ros.runtime.checksums"):
        check_files(models)
    checksums.main(models)
    check_files(models)


def test_digests_are_those_of_the_content_now(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    other.write_bytes(b"b")
    seen = set()
    for content in (b"1", b"2", b"3"):
        path.write_bytes(content)
        seen |= {file_digest(path), joint_digest([path, other]), joint_digest([other, path])}
    assert len(seen) == 9
    path.write_bytes(b"3b")
    assert joint_digest([path]) in seen


def test_only_files_within_the_limit_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_file(tmp_path / "a", 5) == b"12345"
    with pytest.raises(ValueError, match="at most 0 KiB in .*a, got more"):
        read_file(tmp_path / "a", 4)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match="egular file|directory"):
            read_file(path)


def test_a_checksum_belongs_to_a_plain_name(tmp_path: Path) -> None:
    write_checksums(tmp_path, ["missing"])
    check_files(tmp_path)
    (tmp_path / FILE).write_text("0" * 64 + "  ../other\n")
    with pytest.raises(ValueError, match="expected lines of a SHA-256 and a name"):
        check_files(tmp_path)
