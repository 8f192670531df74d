"""What the README and the pages of docs/ show works as it stands there."""

import os
import re
import shlex
import subprocess
import sys
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.main import get_command

import ovs_ros
from ovs_ros.cli.main import app
from ovs_ros.vocabulary.yaml_io import load_vocabulary

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
GUIDE = sorted((ROOT / "docs" / "guide").glob("*.md"))
PAGES = [
    README,
    *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / "docs").rglob("*.md"),
]
MOST_PICTURE_BYTES = 700_000


def blocks(page: Path, language: str = r"\w*") -> list[str]:
    return re.findall(
        rf"^```{language}\n(.+?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def commands(page: Path, program: str) -> list[list[str]]:
    """The shell lines of a page that call a program, as words."""
    text = "\n".join(blocks(page, "(?:sh|bash)?")).replace("\\\n", " ")
    lines = (re.sub(r"\s#.*", "", line).strip() for line in text.splitlines())
    return [shlex.split(line) for line in lines if line.startswith(f"{program} ")]


def prose(page: Path) -> str:
    return re.sub(r"^```.+?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The fragments that GitHub and mkdocs give the headings of a page."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        plain = unicodedata.normalize("NFC", heading).replace("`", "").lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


def photo(folder: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    assert cv2.imwrite(str(folder / "photo.jpg"), image)


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "guide" / "python.md"], ids=lambda page: page.name)
def test_python_lines_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photo(tmp_path)
    exec(blocks(page, "python")[0], {})
    assert cv2.imread("out.png").shape == (90, 120, 3)


def test_readme_uses_public_names_only() -> None:
    code = blocks(README, "python")[0]
    assert re.findall(r"^(?:import|from) (.+)$", code, re.MULTILINE) == ["cv2, ovs_ros"]
    assert set(re.findall(r"ovs_ros\.(\w+)", code)) <= set(ovs_ros.__all__)


def test_readme_commands_run(tmp_path: Path) -> None:
    photo(tmp_path)
    lines = commands(README, "ovs")
    assert lines
    for words in lines:
        subprocess.run(
            [sys.executable, "-c", "from ovs_ros.cli.main import app; app()", *words[1:]],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
        )
    assert (tmp_path / "out" / "photo_labels.png").exists()


def test_readme_has_a_small_picture_in_the_first_screen() -> None:
    first = README.read_text(encoding="utf-8").split("\n## ")[0]
    found = re.search(r"!\[.+?\]\((.+?)\)", first)
    assert found is not None
    picture = ROOT / found[1]
    assert picture.stat().st_size < MOST_PICTURE_BYTES
    # An animated WebP says so in its first chunk.
    header = picture.read_bytes()[:64]
    assert header[8:16] == b"WEBPVP8X"
    assert header[20] & 0x02


def test_vocabulary_file(tmp_path: Path) -> None:
    path = tmp_path / "words.yaml"
    path.write_text(blocks(ROOT / "docs" / "guide" / "vocabulary.md", "yaml")[0])
    vocabulary = load_vocabulary(path)
    assert vocabulary.names == ("person", "desk", "office chair")
    assert vocabulary.categories[2].threshold == 0.3
    assert vocabulary.negatives == ("sky", "shadow")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"\w+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (fragment and fragment not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_their_options_exist(page: Path) -> None:
    wrong = []
    for words in commands(page, "ovs"):
        command, rest = get_command(app), words[1:]
        while rest and getattr(command, "commands", None):
            if rest[0] not in command.commands:
                break
            command, rest = command.commands[rest[0]], rest[1:]
        if getattr(command, "commands", None):
            wrong.append(" ".join(words))
            continue
        known = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
        wrong += [f"{command.name} {word}" for word in rest if re.match(r"--?\w", word) and word not in known]
    assert not wrong


def test_every_command_is_in_the_guide() -> None:
    text = (ROOT / "docs" / "guide" / "command-line.md").read_text(encoding="utf-8")
    missing = []
    for name, command in get_command(app).commands.items():
        inner = () if name == "train" else getattr(command, "commands", ())
        names = [f"{name} {one}" for one in inner] or [name]
        missing += [one for one in names if f"| `ovs {one}` |" not in text]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {words[1] for words in commands(page, "make")}
    named |= set(re.findall(r"`make (\w+)", page.read_text(encoding="utf-8")))
    assert named <= targets


def test_every_public_name_is_on_the_api_page() -> None:
    page = (ROOT / "docs" / "guide" / "python.md").read_text(encoding="utf-8")
    described = re.findall(r"^::: ovs_ros\.(\w+)$", page, re.MULTILINE)
    assert sorted(described) == sorted(name for name in ovs_ros.__all__ if name != "__version__")


def test_files_named_in_the_docs_exist() -> None:
    missing = []
    for page in PAGES[3:]:
        for path in re.findall(
            r"`((?:ovs_ros|test|config|requirements|scripts|docs|launch)/[\w./-]*\w)`", prose(page)
        ):
            if not (ROOT / path).exists():
                missing.append(f"{page.name}: {path}")
    assert not missing
