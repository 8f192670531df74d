"""The size of frames follows their times: pure, by invariants."""

import random
from functools import cache

import numpy as np
from fakes import ColorImageEncoder, SlowColors
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_ros.encoders.patches import fit_grid
from ovs_ros.ros.size_control import SizeControl
from ovs_ros.ros.target_rate import TargetRate

PRESET = 768
shapes = st.sampled_from([(480, 640), (720, 1280), (1080, 1920), (300, 300), (1200, 1600), (128, 640)])
loads = st.floats(0.3, 8.0)
rests = st.floats(0.0, 60.0)
fixed = st.floats(0.0, 20.0)
few = settings(max_examples=30)
rates = st.floats(0.5, 60.0)


def machine(shape, load, fixed_ms, rest_ms, jitter=0.0, seed=0):
    """Times of a frame by the patches asked for: the encoder works on whole rows and columns of cells."""
    rng = random.Random(seed)

    @cache
    def encoder(patches):
        grid = fit_grid(*shape, patches=max(1, patches // 4), patch=32)
        return load * (fixed_ms / 4 + 0.06 * 4 * grid.rows * grid.columns)

    def frame(patches):
        encode, rest = (t * (1 + jitter * rng.uniform(-1, 1)) for t in (encoder(patches), rest_ms))
        return encode, encode + rest

    return frame


def run(control, frame, rate, frames=900):
    """The sizes of the frames."""
    sizes = []
    for _ in range(frames):
        sizes.append(control.state.patches)
        control.add(*frame(control.state.patches), rate)
    return sizes


def changes(sizes):
    return int(np.count_nonzero(np.diff(sizes)))


@few
@given(shapes, loads, fixed, rests, rates, st.integers(0, 99))
def test_under_a_constant_load_it_settles(shape, load, fixed_ms, rest_ms, rate, seed):
    control = SizeControl(PRESET)
    sizes = run(control, machine(shape, load, fixed_ms, rest_ms, 0.1, seed), rate)
    assert changes(sizes) <= len(control.sizes) + 2
    assert changes(sizes[450:]) <= 1
    assert min(control.sizes) <= min(sizes) and max(sizes) <= PRESET


@few
@given(shapes, loads, fixed, rests, rates)
def test_it_reaches_what_can_be_reached_and_says_what_cannot(shape, load, fixed_ms, rest_ms, rate):
    control = SizeControl(PRESET)
    frame = machine(shape, load, fixed_ms, rest_ms)
    run(control, frame, rate, 400)
    least = frame(control.sizes[-1])[1]
    reachable = least <= 1e3 / rate
    assert control.state.reached == reachable
    if reachable:
        assert frame(control.state.patches)[1] <= 1e3 / rate
    else:
        assert control.state.patches == control.sizes[-1]


@few
@given(shapes, loads, st.floats(1.0, 3.0), fixed, rests, rates)
def test_a_slower_machine_never_gets_larger_frames(shape, load, slower, fixed_ms, rest_ms, rate):
    ends = []
    for factor in (1.0, slower):
        control = SizeControl(PRESET)
        ends.append(run(control, machine(shape, load * factor, fixed_ms, rest_ms), rate, 400)[-1])
    fast, slow = (SizeControl(PRESET).sizes.index(end) for end in ends)
    assert slow >= fast


def test_it_comes_back_when_the_load_is_gone_or_nothing_is_asked():
    control = SizeControl(PRESET)
    idle, loaded = (machine((480, 640), load, 0.0, 5.0, 0.1) for load in (1.0, 5.0))
    assert set(run(control, idle, 10, 200)) == {PRESET}
    assert run(control, loaded, 10, 200)[-1] < PRESET / 2
    assert run(control, idle, 10, 900)[-1] == PRESET
    run(control, loaded, 10, 200)
    assert run(control, loaded, 0, 2)[-1] == PRESET and "target_rate is 0" in control.state.reason


def test_a_model_of_a_fixed_size_is_warned_of_once():
    said, warned = [], []
    rate = TargetRate(ColorImageEncoder(), lambda: 10.0, said.append, warned.append)
    for _ in range(50):
        rate.frames_done([{"encode": 500.0}], 600.0)
    assert rate.state is None and not said
    assert len(warned) == 1 and "fake-colours cuts every image into as many patches" in warned[0]


def test_each_change_is_told_in_one_line_and_so_is_a_rate_out_of_reach():
    said, warned = [], []
    encoder = SlowColors(per_patch_s=0.0)
    rate = TargetRate(encoder, lambda: 10.0, said.append, warned.append)
    for _ in range(100):
        rate.frames_done([{"encode": float(encoder.patches)}], encoder.patches + 20.0)
    assert 1 <= len(said) <= 3 and "in place of 768 (the model's own size has 768): frames took" in said[0]
    assert rate.state.patches == encoder.patches == min(SizeControl(768).sizes)
    assert not rate.state.reached and len(warned) == 1 and "is not reached" in warned[0]
