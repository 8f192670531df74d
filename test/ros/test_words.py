import threading
from dataclasses import replace
from time import sleep

import numpy as np
import pytest
from fakes import color_image, color_segmenter

from ovs_ros.ros.words import Words, pointed, remarks, requested
from ovs_ros.srv import SetVocabulary, Teach
from ovs_ros.vocabulary.examples import Example, encoded
from ovs_ros.vocabulary.knowledge import Knowledge
from ovs_ros.vocabulary.vocabulary import Vocabulary, VocabularyError

REPLACE, ADD, REMOVE = SetVocabulary.Request.REPLACE, SetVocabulary.Request.ADD, SetVocabulary.Request.REMOVE
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
