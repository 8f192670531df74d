"""The limits that the guide promises are those of the code, and the locks fit what the package needs."""

import re
from pathlib import Path

import pytest
from test_requirements import ROOT, pins, promised

from ovs_ros.encoders import model_file
from ovs_ros.options import NodeOptions
from ovs_ros.runtime import files, image_size, quoting, yaml_file
from ovs_ros.vocabulary import category, state_file

PAGE = (ROOT / "docs" / "guide" / "security.md").read_text()


def limits(what: str) -> list[int]:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| {what} |"))
    return [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", row.split("|")[2])]


def test_limits_of_words() -> None:
    assert limits("a name; a prompt") == [category.MAX_NAME_LENGTH, category.MAX_PROMPT_LENGTH]
    assert limits("prompts of a word; synonyms") == [category.MAX_PROMPTS, category.MAX_SYNONYMS]
    assert limits("names of a vocabulary or a request") == [category.MAX_IDS]
    assert limits("prompts of all words together; negative words") == [
        category.MAX_ALL_PROMPTS,
        category.MAX_NEGATIVES,
    ]
    assert f"at most {quoting.LONGEST} characters" in PAGE


def test_limits_of_files() -> None:
    assert limits("pixels of a compressed image, by its header") == [image_size.MAX_MEGAPIXELS]
    assert NodeOptions().max_megapixels == image_size.MAX_MEGAPIXELS
    (mebibytes,) = limits("a picture's file, an npz file (unpacked too), the state file")
    assert mebibytes << 20 == files.MOST_BYTES == state_file.MOST_BYTES
    mebibytes, levels = limits("a vocabulary, attributes or classes")
    assert (mebibytes << 20, levels) == (yaml_file.MOST_BYTES, yaml_file.MOST_LEVELS)
    kibibytes, levels = limits("a model file (YAML)")
    assert (kibibytes << 10, levels) == (model_file._MOST_BYTES, yaml_file.MOST_LEVELS)


@pytest.mark.parametrize(("lock", "packages"), [("lock.txt", None), ("run-lock.txt", "run.txt")])
def test_locks_hold_what_is_needed_by_hash(lock: str, packages: str | None) -> None:
    text = (ROOT / "requirements" / lock).read_text()
    needed = promised() if packages is None else pins(packages, ">=")
    locked = dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.M))
    assert needed.keys() <= locked.keys()
    for package, oldest in needed.items():
        newer, older = ([int(part) for part in re.findall(r"\d+", one)] for one in (locked[package], oldest))
        assert newer >= older, package
    for block in re.split(r"\n(?=\S)", text):
        if "==" in block:
            assert "--hash=sha256:" in block
    assert not re.search(r"(?i)file:|--index-url|--find-links", text)


def test_the_page_names_files_that_are_there() -> None:
    for name in re.findall(r"requirements/[\w-]+\.txt", PAGE):
        assert (ROOT / name).is_file()
    assert (ROOT / "SECURITY.md").is_file() and Path(ROOT / "ovs_ros/models/checksums.txt").is_file()
