"""Words that outlive the node: what is written comes back, and no file that is there instead does harm."""

import json
import os
import pickle
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from fakes import color_image, color_segmenter

from ovs_ros.vocabulary import state_file
from ovs_ros.vocabulary.category import CategorySpec
from ovs_ros.vocabulary.errors import VocabularyError
from ovs_ros.vocabulary.examples import Example, encoded
from ovs_ros.vocabulary.state_file import State, StateFile
from ovs_ros.vocabulary.vocabulary import Vocabulary

PICTURE = color_image([["red", "cyan"]])  # 64x32 pixels
MASK = encoded(np.eye(32, 64, dtype=np.uint8))


def state() -> State:
    see = color_segmenter().see
    image = encoded(PICTURE)
    examples = (
        see(Example(image, box=(32, 0, 64, 32))),
        see(Example(image, points=((1, 2), (3, 4)), negative=True)),
        see(Example(image, mask=MASK)),
    )
    first = Vocabulary.from_specs(["red", CategorySpec("sofa", ("a {}",), 0.25, ("couch",))], ["sky"])
    mug = CategorySpec("my mug", examples=examples, examples_only=True)
    return State(first.added([mug]).removed(["red"]).added(["blue"]), changed=True)


def assert_same(back: State | None, kept: State) -> None:
    assert back == kept and back.vocabulary.id_holders == kept.vocabulary.id_holders
    arrays = [one.vocabulary.categories[1].examples[0].image.arrays for one in (kept, back)]
    for name in arrays[0]:
        assert np.array_equal(*(one[name] for one in arrays)), name


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    file, kept = StateFile(tmp_path / "new folder" / "words.npz"), state()
    assert file.read() is None
    file.write(kept)
    assert_same(file.read(), kept)
    assert [path.name for path in file.path.parent.iterdir()] == ["words.npz"]


def test_of_an_image_with_several_examples_one_copy_is_kept(tmp_path: Path) -> None:
    StateFile(tmp_path / "words").write(state())
    with np.load(tmp_path / "words") as file:
        assert [name for name in file.files if name.startswith("tokens")] == ["tokens 0"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = StateFile(tmp_path / "words")
    file.write(state())

    def full(number: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        file.write(replace_version(7))
    assert file.read() == state() and len(list(tmp_path.iterdir())) == 1


def replace_version(version: int) -> State:
    return State(replace(state().vocabulary, version=version), changed=True)


def changed_file(path: Path, change) -> None:
    """Write a state file whose JSON and arrays were changed."""
    StateFile(path).write(state())
    with np.load(path) as file:
        arrays = dict(file)
    document = json.loads(arrays["words"].tobytes())
    change(document, arrays)
    arrays.setdefault("words", np.frombuffer(json.dumps(document).encode(), np.uint8))
    np.savez(path.open("wb"), **arrays)


def words(**fields):
    def change(document, arrays) -> None:
        document.update(fields)
        del arrays["words"]

    return change


def arrays(**changed):
    return lambda document, arrays: arrays.update({f"{name} 0": array for name, array in changed.items()})


NODE = np.zeros((2, 4, 48), np.float16)
CHANGES = {
    "another form": words(form="ovs_ros words 99"),
    "no version": words(version="1"),
    "version 0": words(version=0),
    "a version beyond a message's": words(version=1 << 40),
    "ids of another name": words(ids=[[0, "red"], [1, "my mug"], [2, "sofa"], [3, "blue"]]),
    "ids beyond 16 bits": words(ids=[[1, "sofa"], [2, "my mug"], [3, "blue"], [65535, "red"]]),
    "ids of another kind": words(ids=[[1.0, "sofa"], [2.0, "my mug"], [3.0, "blue"]]),
    "ids without names": words(ids=[[1, 1], [2, 2], [3, 3]]),
    "no categories": words(categories=[]),
    "categories as text": words(categories="red"),
    "a category without fields": words(categories=[{}]),
    "an image that is not there": words(images=[]),
    "negatives without letters": words(negatives=["\u0000"]),
    "not finite": arrays(tokens=np.full_like(NODE, np.nan)),
    "other patches than tokens": arrays(patches=NODE[:1]),
    "no patches": arrays(tokens=NODE[:0], patches=NODE[:0]),
    "an image without end": arrays(size=np.array([1 << 40, 1 << 40])),
    "a span outside": arrays(span=np.array([-1.0, 1.0])),
    "objects": arrays(tokens=np.array([print], object)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_hostile_file_is_refused_in_one_line(tmp_path: Path, change) -> None:
    changed_file(tmp_path / "words", change)
    with pytest.raises(VocabularyError, match="a file that cannot be used") as refused:
        StateFile(tmp_path / "words").read()
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 600 + len(str(tmp_path))


def compressed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("words.npy", bytes(100_000_000))


def shape_without_end(path: Path) -> None:
    header = BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 60,)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("words.npy", header.getvalue())


def deep(path: Path) -> None:
    np.savez(path.open("wb"), words=np.frombuffer(b"[" * 1_000_000, np.uint8))


def cut(path: Path) -> None:
    StateFile(path).write(state())
    path.write_bytes(path.read_bytes()[:-200])


FILES = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("categories: [red]"),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(print)),
    "cut": cut,
    "compressed": compressed,
    "a shape without end": shape_without_end,
    "deep": deep,
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("make", FILES.values(), ids=FILES.keys())
def test_what_is_no_state_file_is_refused(tmp_path: Path, make) -> None:
    make(tmp_path / "words")
    with pytest.raises(VocabularyError, match="a file that cannot be used"):
        StateFile(tmp_path / "words").read()


def test_a_damaged_byte_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    file, kept = StateFile(tmp_path / "words"), state()
    file.write(kept)
    data, refused = file.path.read_bytes(), 0
    for place in range(0, len(data), 41):
        file.path.write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
        try:
            assert_same(file.read(), kept)
        except VocabularyError:
            refused += 1
    assert refused > len(data) / 41 / 2


@pytest.mark.parametrize("make", ["a folder", "a pipe", "a link to a device"])
def test_nothing_but_a_file_is_replaced(tmp_path: Path, make: str) -> None:
    path = tmp_path / "words"
    FILES[make](path)
    with pytest.raises(OSError, match="is no file"):
        StateFile(path).write(state())
    with pytest.raises(OSError, match="is no file"):
        StateFile(path).set_aside()
    assert not path.is_file() and [one.name for one in tmp_path.iterdir()] == ["words"]


def test_a_file_that_is_too_large_is_neither_written_nor_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = StateFile(tmp_path / "words")
    file.write(state())
    monkeypatch.setattr(state_file, "MOST_BYTES", file.path.stat().st_size - 1)
    with pytest.raises(VocabularyError, match="at most"):
        file.write(replace_version(7))
    with pytest.raises(VocabularyError, match="at most"):
        file.read()
