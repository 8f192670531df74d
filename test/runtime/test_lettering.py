"""Text in pictures: readable where a font has it, different for different texts wherever it runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from ovs_ros.runtime.lettering import HEIGHT, line_of_text

NAMES = [
    "wall", "T\u00fcr", "T\u00f6r", "\u00e9tag\u00e8re", "\u0161\u0259\u0142", "\u0441\u0442\u043e\u043b",
    "\u0441\u0442\u0443\u043b", "\u03ac\u03b3\u03b9\u03bf\u03c2", "\u0643\u0631\u0633\u064a",
    "\u0915\u0941\u0930\u094d\u0938\u0940", "\u673a\u5668\u4eba", "\u673a\u5668\u4eba\u4e00", "\u6905\u5b50",
    "\U0001f642 chair", "\U0001f643 chair", "\U0001f469\u200d\U0001f52c", "\\u673a", "\u673a", "\ue000",
    "\ue001",
]  # fmt: skip
HIDDEN = {"PATH": "/none", "XDG_DATA_DIRS": "/none", "XDG_DATA_HOME": "/none"}
DRAW = """
import json, sys
from ovs_ros.render import legend_strip
strips = [legend_strip([(name, (90, 160, 60), 0.5)], 20)[:, 58:].tolist() for name in json.load(sys.stdin)]
print(json.dumps(strips))
"""


def strips(names: list[str], **environment: str) -> list[np.ndarray]:
    """The names of legends, drawn by a new process, which has found no fonts before."""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", DRAW],
        input=json.dumps(names),
        env={**os.environ, "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [np.array(strip, np.uint8) for strip in json.loads(done.stdout)]


@pytest.mark.parametrize("environment", [{}, HIDDEN], ids=["system fonts", "no fonts"])
def test_no_two_names_look_alike_and_none_is_question_marks(environment):
    marks = ["?" * count for count in range(1, 13)]
    marks += ["".join(c if c.isascii() else "?" * len(c.encode()) for c in name) for name in NAMES[1:6]]
    drawn = strips(NAMES + marks, **environment)
    assert len({strip.tobytes() for strip in drawn[: len(NAMES)]}) == len(NAMES)
    of_marks = {strip.tobytes() for strip in drawn[len(NAMES) :]}
    assert not of_marks & {strip.tobytes() for strip in drawn[: len(NAMES)]}


def test_without_fonts_other_characters_are_code_points():
    names = ["T\u00fcr", "\u673a", "\U0001f642"]
    for strip, text in zip(strips(names, **HIDDEN), [r"T\xfcr", r"\u673a", r"\U0001f642"], strict=True):
        picture = Image.new("L", (strip.shape[1] - 2, 20))
        ImageDraw.Draw(picture).text((0, 15), text, 255, ImageFont.load_default(13), anchor="ls")
        np.testing.assert_array_equal(strip[:, 2:, 0], np.rint(24 + np.asarray(picture) / 255 * 211))


def test_a_font_of_the_system_is_used():
    try:
        ImageFont.truetype("DejaVuSans.ttf")
    except OSError:
        pytest.skip("no DejaVu Sans on this machine")
    assert line_of_text("\u0441\u0442\u043e\u043b").shape[1] < line_of_text(r"\u0441").shape[1]


def test_what_stands_for_missing_characters_is_never_drawn():
    """DejaVu has no Devanagari, and shaping puts circles around what it lacks."""
    whole, parts = "\u0915\u0941", ("\u0915", "\u0941")
    assert line_of_text(whole).shape[1] <= sum(line_of_text(part).shape[1] for part in parts) + 2


def test_a_line_is_as_wide_as_its_text():
    assert line_of_text("wall").shape[0] == HEIGHT
    assert line_of_text("wall floor").shape[1] > line_of_text("wall").shape[1] > 10
    assert line_of_text("").shape == (HEIGHT, 1) and not line_of_text(" ").any()


def test_long_names_are_squeezed_so_that_their_ends_are_seen():
    left, right = strips(["swivel chair with high armrests, left", "swivel chair with high armrests, right"])
    assert not np.array_equal(left, right)


def test_a_node_without_legends_needs_no_pillow():
    code = "import sys; import ovs_ros.render; sys.exit('PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
