import threading
from dataclasses import replace
from time import monotonic, sleep

import numpy as np
import pytest
from fakes import color_image, color_segmenter
from fuzz import fuzz
from hypothesis import example, given
from hypothesis import strategies as st

from ovs_ros.ros.unused_ids import GRACE_S
from ovs_ros.ros.words import Words, pointed, remarks, requested
from ovs_ros.srv import SetVocabulary, Teach
from ovs_ros.vocabulary.examples import Example, encoded
from ovs_ros.vocabulary.knowledge import Knowledge
from ovs_ros.vocabulary.state_file import State, StateFile
from ovs_ros.vocabulary.vocabulary import CategorySpec, Vocabulary, VocabularyError

REPLACE, ADD, REMOVE = SetVocabulary.Request.REPLACE, SetVocabulary.Request.ADD, SetVocabulary.Request.REMOVE
NEGATIVES = SetVocabulary.Request.NEGATIVES
START = Vocabulary.from_names(["red", "green"], ["sky"])


def test_replacing_keeps_old_ids_and_negatives():
    after = requested(START, REPLACE, ["blue", "green"], [], [])
    assert dict(zip(after.names, after.ids.tolist(), strict=True)) == {"blue": 2, "green": 1}
    assert after.negatives == ("sky",)
    assert after.version == 2


def test_prompts_and_thresholds_go_with_their_names():
    after = requested(START, ADD, ["blue", "cyan"], ["a {} thing|{}", ""], [float("nan"), 0.25])
    assert [c.prompts for c in after.categories[2:]] == [("a {} thing", "{}"), ()]
    assert [c.threshold for c in after.categories[2:]] == [None, 0.25]


def test_negative_words_are_replaced_and_categories_stay():
    after = requested(START, NEGATIVES, ["shadow", "glare"], [], [])
    assert (after.names, after.negatives, after.version) == (("red", "green"), ("shadow", "glare"), 2)
    assert requested(after, NEGATIVES, [], [], []).negatives == ()


def test_removing():
    assert requested(START, REMOVE, ["RED"], [], []).names == ("green",)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ((7, ["blue"], [], []), "expected mode 0 .*got 7"),
        ((ADD, [], [], []), "at least one"),
        ((REPLACE, [], [], []), "at least one"),
        ((ADD, ["red"], [], []), "already"),
        ((ADD, ["blue", ""], [], []), "letter"),
        ((REPLACE, ["blue", "Blue"], [], []), "once"),
        ((ADD, ["blue", "cyan"], ["only one"], []), "prompts.*2 names, got 1"),
        ((ADD, ["blue"], [], [0.1, 0.2]), "thresholds.*1 names, got 2"),
        ((ADD, ["blue"], [], [1.5]), "0 to 1"),
        ((ADD, ["blue"], ["fine||too many bars"], []), "a prompt for 'blue' with a letter"),
        ((REMOVE, ["pink"], [], []), "pink"),
        ((REMOVE, ["red", "green"], [], []), "stay"),
        ((REMOVE, ["red"], ["{}"], []), "names alone"),
        ((NEGATIVES, ["red"], [], [0.5]), "names alone"),
        ((NEGATIVES, ["sky", "Sky"], [], []), "once"),
    ],
)
def test_impossible_requests_say_why_and_change_nothing(request_, text):
    words = Words(START, color_segmenter())
    before = words.current
    with pytest.raises(VocabularyError, match=text):
        words.change(*request_)
    assert words.current is before


FRAME = color_image([["red", "cyan"]])  # 64x32 pixels


def test_a_request_that_points_becomes_an_example():
    box = pointed(Teach.Request(box=[1, 2, 3, 4], negative=True), FRAME)
    assert box.box == (1, 2, 3, 4) and box.negative and (box.read_image() == FRAME).all()
    assert pointed(Teach.Request(points=[1, 2, 3, 4]), FRAME).points == ((1, 2), (3, 4))
    mask = np.eye(32, 64, dtype=np.uint8)
    assert (pointed(Teach.Request(mask=mask.ravel()), FRAME).region(32, 64) == (mask > 0)).all()


@pytest.mark.parametrize("rotation", [90, 180, 270])
@pytest.mark.parametrize("what", ["box", "mask", "points"])
def test_an_example_of_a_turned_camera_is_turned_as_the_model_sees_it(rotation, what):
    frame = np.random.default_rng(1).integers(0, 256, (32, 64, 3), np.uint8)
    mask = np.zeros((32, 64), np.uint8)
    mask[5:9, 40:60] = 1
    request = {
        "box": Teach.Request(box=[40, 5, 60, 9]),
        "mask": Teach.Request(mask=mask.ravel()),
        "points": Teach.Request(points=[40, 5, 59, 8]),
    }[what]
    usual, turned = pointed(request, frame), pointed(request, frame, rotation)
    assert (turned.read_image() == np.rot90(frame, -rotation // 90)).all()
    height, width = turned.read_image().shape[:2]
    assert (turned.region(height, width) == np.rot90(usual.region(32, 64), -rotation // 90)).all()
    with pytest.raises(VocabularyError):  # It is in the turned image, and not in the camera's.
        pointed(Teach.Request(box=[0, 30, 10, 40]), frame, rotation)


def test_teaching_adds_a_category_or_an_example_and_a_reset_forgets_them():
    words = Words(START, color_segmenter())
    example = pointed(Teach.Request(box=[32, 0, 64, 32]), FRAME)
    first = words.teach("bay 7", example, examples_only=True).vocabulary
    assert first.version == 2 and first.categories[2].examples_only and first.ids.tolist() == [0, 1, 2]
    second = words.teach("Bay 7", example, examples_only=False).vocabulary
    assert second.categories[2].examples == (example, example) and second.categories[2].examples_only
    assert words.reset().prototypes is None
    before = words.current
    with pytest.raises(VocabularyError, match="'red': expected a box inside"):
        words.teach("red", Example(encoded(FRAME), box=(0, 0, 90, 9)), examples_only=False)
    assert words.current is before


def test_replacing_keeps_what_was_taught_of_names_that_stay():
    words = Words(START, color_segmenter())
    words.teach("bay 7", pointed(Teach.Request(box=[32, 0, 64, 32]), FRAME), examples_only=True)
    kept = words.change(REPLACE, ["blue", "BAY 7"], [], [0.5, 0.25]).vocabulary.categories[1]
    assert (len(kept.examples), kept.examples_only, kept.threshold, kept.id) == (1, True, 0.25, 2)
    words.change(REPLACE, ["blue"], [], [])
    assert words.change(ADD, ["bay 7"], [], []).vocabulary.categories[1].examples == ()


def test_what_a_model_has_seen_is_not_encoded_again():
    looks = []
    segmenter = color_segmenter(lambda: looks.append(1))
    cyan = Example(encoded(FRAME), box=(32, 0, 64, 32))
    shown = CategorySpec("bay 7", examples=(cyan,), examples_only=True)
    words = Words(Vocabulary.from_specs(["red", shown]), segmenter)
    example = words.see(pointed(Teach.Request(box=[0, 0, 32, 32]), FRAME), lambda encoding: encoding())
    assert len(looks) == 2
    words.teach("red", example, examples_only=False)
    words.change(ADD, ["blue"], [], [])
    assert words.reset().prototypes is not None and len(looks) == 2


@pytest.fixture
def file(tmp_path):
    return StateFile(tmp_path / "words")


class Run:
    """One life of the node's words with a state file."""

    def __init__(self, file, start=START, segmenter=None, before=None):
        self.warnings = []
        self.words = Words(start, segmenter or color_segmenter(), before, file, self.warnings.append)

    @property
    def vocabulary(self):
        return self.words.current.vocabulary

    def teach(self, name, box, examples_only=False):
        request = Teach.Request(box=box)
        example = self.words.see(pointed(request, FRAME), lambda encoding: encoding())
        return self.words.teach(name, example, examples_only=examples_only)


def test_a_restart_goes_on_with_words_ids_versions_and_what_was_taught(file):
    first = Run(file)
    first.words.change(REPLACE, ["blue", "green"], ["a {} thing", ""], [0.5, float("nan")])
    first.teach("bay 7", [32, 0, 64, 32], examples_only=True)
    second = Run(file)
    assert second.vocabulary == first.vocabulary and second.words.changed and not second.warnings
    before, after = first.words.current, second.words.current
    assert np.allclose(before.prototypes.weights, after.prototypes.weights, atol=1e-5)
    assert np.allclose(before.embeddings, after.embeddings, atol=1e-6)
    assert second.words.change(ADD, ["red", "cyan"], [], []).vocabulary.version == 4
    assert second.vocabulary.ids.tolist() == [2, 1, 3, 0, 4]


def test_the_file_has_each_change_before_anybody_sees_it(file):
    run, segmenter = Run(file), color_segmenter()
    run.words.change(ADD, ["blue"], [], [])
    write, seen = file.write, []
    file.write = lambda state: (write(state), seen.append(run.vocabulary.version))
    run.words.change(ADD, ["cyan"], [], [])
    assert seen == [2] and Run(file, segmenter=segmenter).vocabulary.version == 3


def test_words_that_never_changed_are_those_of_the_start(file):
    assert Run(file).vocabulary.version == 1
    assert Run(file).vocabulary.version == 1
    other = Run(file, Vocabulary.from_names(["cyan", "red"]))
    assert (other.vocabulary.version, other.vocabulary.names) == (2, ("cyan", "red"))
    assert (other.vocabulary.ids.tolist(), other.vocabulary.negatives) == ([2, 0], ())
    other.words.change(ADD, ["blue"], [], [])
    assert Run(file).vocabulary.names == ("cyan", "red", "blue")
    Run(file).words.reset()
    last = Run(file)
    assert (last.vocabulary.version, last.vocabulary.names, last.words.changed) == (4, START.names, False)


def test_what_another_model_saw_is_left_out_with_a_warning(file):
    shown = CategorySpec("red", examples=(Example(encoded(FRAME), box=(0, 0, 32, 32)),))
    start = Vocabulary.from_specs([shown, "green"])
    first = Run(file, start)
    first.teach("bay 7", [32, 0, 64, 32], examples_only=True)
    first.teach("green", [32, 0, 64, 32])
    other = color_segmenter()
    other.model.image_encoder.name = "other-colours"
    second = Run(file, start, other)
    assert (second.vocabulary.names, second.vocabulary.version) == (("red", "green"), 4)
    assert [len(c.examples) for c in second.vocabulary.categories] == [1, 0]
    (warning,) = second.warnings
    assert "What was taught of red, green, bay 7 is left out" in warning and "other-colours" in warning
    assert warning.endswith("words.old") and Run(file, start, other).warnings == []
    assert second.words.change(ADD, ["bay 7"], [], []).vocabulary.ids.tolist() == [0, 1, 2]
    file.path.with_name("words.old").replace(file.path)
    assert Run(file, start).vocabulary == first.vocabulary


@pytest.mark.parametrize("damage", [b"", b"PK but no more"])
def test_with_a_damaged_file_it_starts_with_the_configured_words(file, damage):
    file.path.write_bytes(damage)
    run = Run(file)
    assert run.vocabulary == START
    (warning,) = run.warnings
    assert "the words of its parameter 'vocabulary'" in warning and "\n" not in warning
    assert file.path.with_name("words.old").read_bytes() == damage
    run.words.change(ADD, ["blue"], [], [])
    assert Run(file).vocabulary == run.vocabulary


def test_what_only_looks_like_words_does_not_stop_it(file):
    """Sound files whose words or examples the model cannot use: nothing else can tell."""
    run = Run(file)
    run.teach("bay 7", [32, 0, 64, 32], examples_only=True)
    category = run.vocabulary.categories[2]
    seen = category.examples[0].image
    wide = replace(seen, arrays={**seen.arrays, "patches": np.zeros((2, 4, 7), np.float16)})
    hostile = replace(category, examples=(replace(category.examples[0], image=wide),))
    file.write(State(replace(run.vocabulary, categories=(hostile,)), changed=True))
    again = Run(file)
    assert again.vocabulary == START and len(again.warnings) == 1 and Run(file).warnings == []


def test_where_the_file_cannot_be_written_words_change_and_a_warning_says_so(tmp_path):
    (tmp_path / "no folder").touch()
    run = Run(StateFile(tmp_path / "no folder" / "words"))
    assert run.words.change(ADD, ["blue"], [], []).vocabulary.version == 2
    assert ["'state_file'" in warning for warning in run.warnings] == [True, True]


def test_a_file_that_was_left_behind_does_not_take_versions_back(file):
    run = Run(file)
    data = file.path.read_bytes()
    run.words.change(ADD, ["blue"], [], [])
    file.path.write_bytes(data)
    assert Run(file, before=run.words.close()).vocabulary.version == 3


def test_a_reset_goes_back_to_the_start_under_a_new_version():
    words = Words(START, color_segmenter())
    words.change(REPLACE, ["blue"], [], [])
    assert words.reset().vocabulary.names == ("red", "green")
    assert words.current.vocabulary.version == 3
    assert words.current.vocabulary.ids.tolist() == [0, 1]


def test_ids_of_an_earlier_life_stay_taken():
    before = START.added(["blue"]).removed(["red"])
    words = Words(Vocabulary.from_names(["cyan", "blue"]), color_segmenter(), before)
    vocabulary = words.current.vocabulary
    assert dict(zip(vocabulary.names, vocabulary.ids.tolist(), strict=True)) == {"cyan": 3, "blue": 2}
    assert vocabulary.version == 4


class Clock:
    """Seconds that only a test moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_many_rounds_end_neither_the_ids_nor_8_bits():
    clock = Clock()
    words = Words(START, color_segmenter(), clock=clock)
    last_use = {}
    for i in range(2000):
        clock.now += 0.1
        name = f"word {i % 1000}"
        vocabulary = words.change(REPLACE, ["red", "green", name], [], []).vocabulary
        number = int(vocabulary.ids[-1])
        assert not vocabulary.wide and vocabulary.ids[:2].tolist() == [0, 1]
        old, until = last_use.get(number, (name, 0))
        assert old == name or clock.now - until >= GRACE_S
        last_use[number] = name, clock.now
    assert vocabulary.version == 2001


def test_a_word_that_returns_in_time_has_its_old_id_and_nobody_got_it_before():
    clock = Clock()
    words = Words(START, color_segmenter(), clock=clock)
    words.change(REPLACE, [f"word {i}" for i in range(250)], [], [])
    clock.now += GRACE_S - 0.1
    assert words.change(REPLACE, ["a", "b", "c", "d", "green"], [], []).vocabulary.wide
    clock.now += 0.1
    words.narrow()  # 'red' went out of use first.
    assert words.current.vocabulary.ids.tolist() == [252, 253, 254, 0, 1]
    assert words.change(ADD, ["word 7"], [], []).vocabulary.ids.tolist()[-1] == 9


def test_few_words_after_many_return_to_8_bits_by_themselves(monkeypatch, file):
    monkeypatch.setattr("ovs_ros.ros.words.GRACE_S", 0.05)
    monkeypatch.setattr("ovs_ros.ros.unused_ids.GRACE_S", 0.05)
    many, warnings = Vocabulary.from_names([f"word {i}" for i in range(300)]), []
    words = Words(many, color_segmenter(), None, file, warnings.append)
    wide = words.change(REPLACE, ["word 299", "word 3"], [], []).vocabulary
    assert wide.wide and wide.ids.tolist() == [299, 3]
    end = monotonic() + 20
    while words.current.vocabulary.wide:
        assert monotonic() < end
        sleep(0.01)
    small = words.close()
    assert (small.version, small.names, small.ids.tolist()) == (3, wide.names, [0, 3])
    assert file.read() == State(small, changed=True)
    (warning,) = warnings
    assert "16UC1" in warning and "300 words with ids up to 299" in warning


def test_changes_from_several_threads_are_all_kept():
    words = Words(START, color_segmenter())
    names = [f"word {i}" for i in range(20)]
    threads = [threading.Thread(target=words.change, args=(ADD, [name], [], [])) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(words.current.vocabulary.names) == {"red", "green", *names}
    assert words.current.vocabulary.version == 21


def test_after_closing_every_change_is_refused():
    words = Words(START, color_segmenter())
    assert words.close() is words.current.vocabulary
    with pytest.raises(VocabularyError, match="configured node"):
        words.change(ADD, ["blue"], [], [])
    with pytest.raises(VocabularyError, match="configured node"):
        words.reset()


def test_closing_does_not_wait_for_all_words_of_a_change():
    segmenter = color_segmenter()
    words = Words(START, segmenter)
    before, encode = words.current, segmenter.model.text_encoder.encode
    closer = threading.Thread(target=words.close)
    batches = []

    def encode_while_it_is_closed(texts):
        if not batches:
            closer.start()
        batches.append(len(texts))
        sleep(0.05)
        return encode(texts)

    segmenter.model.text_encoder.encode = encode_while_it_is_closed
    with pytest.raises(VocabularyError, match="configured node"):
        words.change(REPLACE, [f"word {i}" for i in range(640)], [], [])
    assert sum(batches) < 640
    closer.join(timeout=10)
    assert not closer.is_alive() and words.current is before


def test_the_linter_has_a_word():
    words = Words(Vocabulary.from_names(["red", "object"]), color_segmenter())
    assert "version 1 with 2 categories" in remarks(words.current, words.model)
    assert "'object' fits everything" in remarks(words.current, words.model)
    known = replace(words.model, knowledge=Knowledge(frozenset({"object"}), frozenset({"green"})))
    said = remarks(words.current, known)
    assert ". Warnings: " in said and ". Notes: red: in no training picture" in said
    assert "Notes" not in remarks(words.current, words.model)


def test_a_change_notes_new_words_alone():
    words = Words(Vocabulary.from_names(["red", "green"]), color_segmenter())
    known = replace(words.model, knowledge=Knowledge(frozenset({"blue"}), frozenset()))
    before = words.current.vocabulary
    added = words.change(ADD, ["yellow"], [], [])
    assert "Notes: yellow: in no training picture" in remarks(added, known, before)
    assert "Notes" not in remarks(words.change(REMOVE, ["red", "yellow"], [], []), known, added.vocabulary)
    assert "with 1 category" in remarks(words.current, known)


def test_requests_are_limited_before_anything_is_made_of_them():
    vocabulary = Vocabulary.from_names(["a"])
    with pytest.raises(VocabularyError, match="at most 65535 names, got 65536"):
        requested(vocabulary, REPLACE, ["a"] * 65536, [], [])
    with pytest.raises(VocabularyError, match="at most 200000 prompts, got more"):
        requested(vocabulary, REPLACE, ["a"], ["|" * 10_000_000], [])


TEXTS = st.lists(
    st.one_of(st.text(max_size=8), st.sampled_from(["a", "A ", "b|c", "x" * 400, "\0", "\u202e"])), max_size=4
)


@fuzz
@given(st.integers(0, 4), TEXTS, TEXTS, st.lists(st.floats(), max_size=4))
@example(0, ["0\U00018d09"], [], [2.0])  # A letter that Python 3.11 does not know.
def test_any_request_is_met_or_refused(mode, names, prompts, thresholds):
    vocabulary = Vocabulary.from_names(["a", "b"])
    try:
        changed = requested(vocabulary, mode, names, prompts, thresholds)
    except VocabularyError as error:
        assert len(str(error)) < 4000 and str(error).isprintable()
    else:
        assert changed.version == 2
