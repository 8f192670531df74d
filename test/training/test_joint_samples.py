"""What a step sees: labels follow their pixels, and a batch follows from its step alone."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from training.recipes.joint_data import write_data  # noqa: E402

from ovs_ros.training.distributed import Ranks  # noqa: E402
from ovs_ros.training.joint_samples import (  # noqa: E402
    JointSamples,
    Pictures,
    PixelSet,
    draw_boxes,
    load_batches,
    nameless,
)
from ovs_ros.training.label_spaces import shipped_label_spaces  # noqa: E402
from ovs_ros.training.options import EmbeddedOptions  # noqa: E402

SPACES = shipped_label_spaces()
OPTIONS = EmbeddedOptions(steps=6, batch=4, height=64, width=96, points=20, pictures=2, workers=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_data(root)
    return root


def pixel_set(data: Path, name: str, *, hold_out: bool = True) -> PixelSet:
    return PixelSet(data / name, SPACES[name], hold_out=hold_out)


def samples(data: Path, rank: int = 0, world: int = 1) -> JointSamples:
    files = tuple(sorted((data / "flickr8k" / "image").glob("*.jpg")))
    sets = [pixel_set(data, name) for name in ("nyuv2", "voc", "doordetect")]
    pictures = [Pictures(files, np.arange(3), whole=True), Pictures(files, np.arange(10, 13), whole=False)]
    return JointSamples(sets, pictures, OPTIONS, Ranks(rank, world, torch.device("cpu")))


@pytest.mark.parametrize("seed", range(8))
def test_labels_follow_their_pixels(data: Path, seed: int) -> None:
    view = pixel_set(data, "voc").draw((96, 128), np.random.default_rng(seed))
    assert view.image.shape == (96, 128, 3) and view.classes.shape == view.fine.shape == (24, 32)
    grey = view.image.mean(axis=2)[2::4, 2::4]
    labels = np.unique(view.classes[(view.classes >= 0) & (view.classes < 20)])
    means = [np.median(grey[view.classes == label]) for label in labels]
    # Brightness grows with the class's number, up to 160 of 255, and colours vary alike over an image.
    assert (np.diff(means) > 0).all() and len(labels)


def test_unlabelled_pixels_are_none_of_the_words_or_nothing(data: Path) -> None:
    found = {
        name: np.concatenate(
            [
                pixel_set(data, name).draw((64, 64), np.random.default_rng(i)).classes.ravel()
                for i in range(12)
            ]
        )
        for name in ("voc", "nyuv2")
    }
    assert 20 in found["voc"]
    assert found["nyuv2"].max() < 37 and -1 in found["nyuv2"]


def test_finer_labels_come_along(data: Path) -> None:
    view = pixel_set(data, "nyuv2").draw((64, 64), np.random.default_rng(0))
    known = view.classes >= 0
    np.testing.assert_array_equal(view.fine[known], view.classes[known] % 3 + 1)
    assert nameless(("wall", "unknown", "kettle"))[:5].tolist() == [-1, 0, -1, 1, -1]


def test_held_out_images_are_not_trained_on(data: Path) -> None:
    assert len(pixel_set(data, "voc")) == 9
    assert len(pixel_set(data, "voc", hold_out=False)) == 10


def test_boxes_lose_their_margins_and_small_ones_lie_on_top() -> None:
    label = draw_boxes((40, 60), [(1, 20, 10, 30, 20), (0, 0, 0, 60, 40)])
    assert label[0, 0] == 255 and label[4, 6] == 0 and label[35, 53] == 0 and label[36, 54] == 255
    assert label[15, 25] == 1 and label[10, 20] == 0


def test_a_batch_follows_from_its_step(data: Path) -> None:
    one, other = samples(data), samples(data)
    for first, second in zip(one[3], other[3], strict=True):
        assert first == second if isinstance(first, int) else torch.equal(first, second)
    assert not torch.equal(one[3].places, one[4].places)
    later = next(load_batches(samples(data), 3))
    assert torch.equal(later.images, one[3].images)


def test_processes_share_a_batch(data: Path) -> None:
    first, second = (samples(data, rank, 2)[0] for rank in (0, 1))
    assert len(first.images) == len(second.images) == 2 and len(first.pictures) == 1
    assert not torch.equal(first.images, second.images)
    assert first.kind == second.kind


def test_kinds_of_pictures_take_turns_in_every_second_step(data: Path) -> None:
    batches = [samples(data)[step] for step in range(6)]
    assert [batch.kind for batch in batches] == [0, -1, 1, -1, 0, -1]
    assert [len(batch.pictures) for batch in batches] == [2, 0, 2, 0, 2, 0]
    assert (batches[2].targets >= 10).all()


def test_positions_have_labels(data: Path) -> None:
    batch = samples(data)[0]
    assert batch.places.shape == batch.classes.shape == (4, 20)
    assert (batch.classes >= 0).all()
    assert batch.places.max() < 16 * 24


def test_frequencies_are_those_of_the_positions_that_are_drawn(data: Path) -> None:
    voc = pixel_set(data, "voc")
    options = EmbeddedOptions(steps=60, batch=8, height=96, width=128, points=40, workers=0)
    drawn = JointSamples([voc], [], options, Ranks(0, 1, torch.device("cpu")))
    classes = np.concatenate([drawn[step].classes.numpy().ravel() for step in range(60)])
    counts = np.bincount(classes[classes < 20], minlength=20)
    assert voc.frequencies.sum() == pytest.approx(1) and (voc.frequencies[5:] == 0).all()
    np.testing.assert_allclose(voc.frequencies, counts / counts.sum(), atol=0.05)


def test_words_of_boxes_are_checked(data: Path, tmp_path: Path) -> None:
    write_data(tmp_path)
    (tmp_path / "doordetect" / "boxes.tsv").write_text("file\tword\tx0\ty0\tx1\ty1\n0.jpg\tcat\t1\t1\t2\t2\n")
    with pytest.raises(ValueError, match="got 'cat'"):
        pixel_set(tmp_path, "doordetect")
