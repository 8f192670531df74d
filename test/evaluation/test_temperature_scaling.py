"""Calibration error and temperature, on made-up forecasts whose truth is known."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_ros.encoders import embedded
from ovs_ros.encoders.embedded import CALIBRATION_FILE, load_temperature
from ovs_ros.evaluation.temperature_scaling import (
    Reliability,
    fit_temperature,
    model_digest,
)


def forecasts(temperature, images=8, positions=2000, words=6, seed=0):
    """Logits whose true words are drawn from their softmax once they are divided by the temperature."""
    rng = np.random.default_rng(seed)
    logits = [rng.normal(0, 3, (positions, words)).astype(np.float32) for _ in range(images)]
    right = []
    for image in logits:
        # The word of the highest logit plus Gumbel noise is a draw from the softmax.
        true = (image / temperature + rng.gumbel(size=image.shape)).argmax(axis=1)
        right.append(image.argmax(axis=1) == true)
    return logits, right


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def reliability_of(logits, right, temperature):
    reliability = Reliability()
    for image, answers in zip(logits, right, strict=True):
        best = softmax(image / temperature).max(axis=1)
        reliability.add(np.round(best * 255).astype(np.uint8), answers)
    return reliability


def test_error_by_hand():
    reliability = Reliability()
    reliability.add(np.uint8([[255, 255], [51, 51]]), np.array([[True, False], [False, False]]))
    # Half of the pixels with confidence 1 are right, none of those with 0.2.
    assert reliability.error() == pytest.approx((2 * 0.5 + 2 * 0.2) / 4)
    assert reliability.accuracy == 0.25 and reliability.mean_confidence == pytest.approx(0.6)
    # In one bin only the means count.
    assert reliability.error(bins=1) == pytest.approx(0.6 - 0.25)


def test_images_add_up():
    rng = np.random.default_rng(1)
    confidence, right = rng.integers(0, 256, (2, 500)).astype(np.uint8), rng.random((2, 500)) < 0.5
    apart, together = Reliability(), Reliability()
    for image in range(2):
        apart.add(confidence[image], right[image])
    together.add(confidence, right)
    np.testing.assert_array_equal(apart.pixels, together.pixels)
    assert apart.error() == together.error()


def test_a_sure_confidence_falls_into_the_last_bin():
    reliability = Reliability()
    reliability.add(np.full(10, 255, np.uint8), np.ones(10, bool))
    assert reliability.error() == 0


def test_nothing_counted_is_no_number_and_shapes_must_agree():
    reliability = Reliability()
    assert np.isnan(reliability.error()) and np.isnan(reliability.accuracy)
    assert np.isnan(reliability.mean_confidence)
    with pytest.raises(ValueError, match="one answer for each confidence"):
        reliability.add(np.zeros(3, np.uint8), np.zeros(2, bool))


def test_calibrated_forecasts_have_no_error_and_others_do():
    logits, right = forecasts(temperature=2.0)
    assert reliability_of(logits, right, 2.0).error() < 0.01
    assert reliability_of(logits, right, 1.0).error() > 0.1
    assert reliability_of(logits, right, 5.0).error() > 0.1


@settings(max_examples=8, deadline=None)
@given(st.floats(0.2, 8.0), st.integers(0, 1000))
def test_a_known_temperature_is_found(temperature, seed):
    logits, right = forecasts(temperature, images=4, seed=seed)
    assert fit_temperature(logits, right) == pytest.approx(temperature, rel=0.15)


def test_images_weigh_the_same_whatever_their_size():
    small, large = forecasts(1.0, images=1, positions=2000), forecasts(4.0, images=1, positions=40000, seed=1)
    both = fit_temperature([*small[0], *large[0]], [*small[1], *large[1]])
    cut = [large[0][0][:2000]], [large[1][0][:2000]]
    assert both == pytest.approx(fit_temperature([*small[0], *cut[0]], [*small[1], *cut[1]]), rel=0.1)


def test_images_may_have_other_words_and_none_at_all():
    many, few = forecasts(1.5, images=2, words=9), forecasts(1.5, images=2, words=4, seed=3)
    nothing = np.zeros((0, 5), np.float32), np.zeros(0, bool)
    found = fit_temperature([*many[0], nothing[0], *few[0]], [*many[1], nothing[1], *few[1]])
    assert found == pytest.approx(1.5, rel=0.1)


def test_a_single_word_that_is_wrong_moves_nothing():
    logits, right = forecasts(1.5)
    alone = np.zeros((50, 1), np.float32), np.zeros(50, bool)
    assert fit_temperature([*logits, alone[0]], [*right, alone[1]]) == pytest.approx(1.5, rel=0.1)


def test_a_fit_needs_positions_and_as_many_answers():
    with pytest.raises(ValueError, match="expected labelled positions"):
        fit_temperature([np.zeros((0, 3), np.float32)], [np.zeros(0, bool)])
    with pytest.raises(ValueError, match="one answer for each position"):
        fit_temperature([np.zeros((4, 3), np.float32)], [np.zeros(3, bool)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not JSON", "expected the temperature of the model stream"),
        ("{}", "expected the temperature of the model stream"),
        ('{"stream": {"temperature": "warm"}}', "expected the temperature of the model stream"),
        ('{"stream": {"temperature": 0}}', "0.0, not from 0.05 to 20"),
        ('{"stream": {"temperature": NaN}}', "nan, not from 0.05 to 20"),
    ],
)
def test_a_file_without_a_temperature_is_refused(tmp_path, text, message):
    (tmp_path / CALIBRATION_FILE).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_temperature("stream", tmp_path)


def test_a_folder_without_the_file_is_not_calibrated_and_says_so(tmp_path, caplog):
    assert load_temperature("stream", tmp_path) == 1
    assert "not calibrated" in caplog.text and "ovs temperature" in caplog.text


@pytest.mark.parametrize("model", embedded.PRESETS)
def test_shipped_temperatures_were_fitted_to_the_shipped_weights(model):
    shipped = json.loads((embedded.MODELS / CALIBRATION_FILE).read_text())[model]
    assert load_temperature(model, embedded.MODELS) == shipped["temperature"]
    assert shipped["model"] == model_digest(embedded.MODELS), (
        "the weights have changed: run 'ovs temperature DIR... --output ovs_ros/models/calibration.json'"
    )


def test_a_digest_tells_weights_apart(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"1")
    first = model_digest(tmp_path)
    (tmp_path / "card.md").write_text("words about it")
    assert model_digest(tmp_path) == first
    (tmp_path / "a.onnx").write_bytes(b"2")
    assert model_digest(tmp_path) != first
