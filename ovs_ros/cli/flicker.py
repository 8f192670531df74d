"""`ovs flicker`: how steady the names of a recording are, and what happens to them from frame to frame.

It measures the temporal filter and the propagation of labels from key frames.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from ovs_ros.cli.common import (
    JsonOption,
    Skipped,
    VocabularyOption,
    WordsOption,
    asked_vocabulary,
    embed_words,
    load_segmenter,
    print_table,
    read_each,
    rounded,
    say,
    write_json,
)
from ovs_ros.cli.known_sets import words_of
from ovs_ros.cli.options import with_flags
from ovs_ros.evaluation.flicker import Flicker
from ovs_ros.evaluation.labelled_folder import LabelledSet, load_labelled_set
from ovs_ros.evaluation.propagation import CarriedLabels, Frame, PropagationTest
from ovs_ros.geometry.flow import DownscaledFrame
from ovs_ros.geometry.reprojection import Sight
from ovs_ros.geometry.rgbd_folder import RgbdFolder
from ovs_ros.options import LoadOptions, NodeOptions, PropagateFill, SegmenterOptions
from ovs_ros.runtime.images import list_images, read_image
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.steps.temporal_filter import TemporalFilter, flow_filter, pose_filter
from ovs_ros.vocabulary.vocabulary import Vocabulary

DISTANCES = (1, 2, 3, 5)


@with_flags()
def flicker(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="Consecutive frames: NNNN.color.jpg, NNNN.depth.png (uint16 millimetres), NNNN.pose.txt "
            "(4x4, camera to world) and intrinsics.txt (3x3); or image/* and label/*.png, as `ovs evaluate` "
            "takes them; or images alone.",
        ),
    ],
    words: WordsOption = None,
    vocabulary: VocabularyOption = None,
    frames: Annotated[int | None, typer.Option(min=2, help="How many frames, from the first on.")] = None,
    rate: Annotated[float, typer.Option(min=0.1, help="Frames a second of the recording.")] = 15.0,
    temporal_filter_time: Annotated[
        list[float] | None,
        typer.Option(help="Seconds after which a frame's vote counts 1/e; may be given several times."),
    ] = None,
    distance: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Over how many frames labels of key frames are carried; may be given several times. By "
            f"default {', '.join(map(str, DISTANCES))}.",
        ),
    ] = None,
    propagate_fill: Annotated[
        PropagateFill, typer.Option(help="What pixels get that the key frame does not show.")
    ] = "nearest",
    json_file: JsonOption = None,
    *,
    load: LoadOptions,
    options: SegmenterOptions,
) -> None:
    """Measure how steady names are, and how well labels can be carried from a key frame to later frames.

    Flicker is the share of pixels whose name changes between frames that see the same point. Depth and poses
    tell which pixels do, so that only a recording with both has this figure. 'other than unfiltered' is the
    share of pixels to which the temporal filter gives another name: a filter that freezes names has little
    flicker, and a high share.

    Carried labels are compared with a fresh decision of each frame and, where DIR has labels, with the truth.
    With labels, the class names are the vocabulary.
    """
    recording = _Recording(folder, words, vocabulary)
    numbers = range(len(recording))[:frames]
    segmenter = load_segmenter(load, options)
    embedded = embed_words(segmenter, recording.vocabulary)
    ways = [
        _Way(name, seconds, make(seconds))
        for seconds in (temporal_filter_time or [NodeOptions.temporal_filter_time])
        for name, make in (("flow", flow_filter), ("pose", pose_filter))
    ]
    carried = PropagationTest(
        distance or DISTANCES, propagate_fill, recording.classes, len(recording.vocabulary)
    )
    off, skipped, times_ms = Flicker(), Skipped(), []
    for number, frame in read_each(numbers, recording.read, skipped, "Segmenting"):
        start = perf_counter()
        result = segmenter.segment(frame.image, embedded)
        times_ms.append((perf_counter() - start) * 1e3)
        carried.add(frame, result, number / rate)
        if frame.sight is not None:
            off.add(result.labels, frame.sight)
            for way in ways:
                way.add(result, number / rate, frame.image, frame.sight)
    done = len(numbers) - len(skipped)
    results: dict[str, Any] = {"frames": done}
    if off.seen:
        results |= _report_flicker(off, ways)
    results |= _report_carried(carried)
    results |= {"ms_per_frame": round(float(np.median(times_ms)), 2), "model": segmenter.model.name}
    say(f"{done} frames, {results['ms_per_frame']:.1f} ms for a fresh decision. Model {results['model']}.")
    write_json(json_file, results)
    skipped.end()


class _Recording:
    """The frames of a folder of one of the three kinds, and the words to look for."""

    def __init__(self, folder: Path, words: str | None, vocabulary: str | None) -> None:
        self.classes: NDArray[np.uint16] | None = None
        self._read: Callable[[int], Frame]
        if (folder / "label").is_dir():
            self._open_labelled(load_labelled_set(folder))
            if words is not None or vocabulary is not None:
                raise ValueError(
                    f"expected neither --words nor --vocabulary, as {folder} has labels: its class names "
                    "are the vocabulary"
                )
            return
        self.vocabulary = asked_vocabulary(words, vocabulary)
        images = [] if any(folder.glob("*.color.jpg")) else list_images(folder)
        if images:
            self._length = len(images)
            self._read = lambda number: Frame(read_image(images[number]))
            return
        recording = RgbdFolder(folder)
        self._length = len(recording.names)
        self._read = lambda number: Frame(*recording.read(recording.names[number]))

    def _open_labelled(self, dataset: LabelledSet) -> None:
        asked = words_of(dataset.names, None)
        self.vocabulary, self.classes = Vocabulary.from_names(asked.words), asked.classes
        self._length = len(dataset)

        def read(number: int) -> Frame:
            image, truth = dataset.read(number)
            return Frame(image, truth=truth)

        self._read = read

    def __len__(self) -> int:
        return self._length

    def read(self, number: int) -> Frame:
        return self._read(number)


def _report_flicker(off: Flicker, ways: "list[_Way]") -> dict[str, Any]:
    reports = [way.report() for way in ways]
    compared = off.compared / off.seen
    print_table(
        ["temporal filter", "time constant", "flicker", "other than unfiltered", "ms per frame"],
        [
            ["off", "", _shown(off.rate), "", ""],
            *(
                [
                    way["temporal_filter"],
                    f"{way['temporal_filter_time']:g} s",
                    _shown(way["flicker"]),
                    _shown(way["other_than_unfiltered"]),
                    f"{way['ms_per_frame']:.1f}",
                ]
                for way in reports
            ),
        ],
        f"{compared:.0%} of the pixels could be compared",
    )
    return {"compared_share": rounded(compared), "flicker": rounded(off.rate), "filtered": reports}


def _report_carried(test: PropagationTest) -> dict[str, Any]:
    reports = [_carried(way) for way in test.ways]
    fresh = None if test.fresh is None else rounded(test.fresh.mean_iou)
    heads = ["propagate", "frames", "covered", "agrees", "of covered", "right", "confidence", "mIoU", "ms"]
    shares = ("covered", "agreement", "covered_agreement", "pixel_accuracy", "mean_confidence")
    print_table(
        heads,
        [
            [
                one["propagate"],
                str(one["distance"]),
                *("" if one[key] is None else _shown(one[key]) for key in shares),
                "" if one["miou"] is None else f"{one['miou']:.3f}",
                "" if one["ms_per_frame"] is None else f"{one['ms_per_frame']:.1f}",
            ]
            for one in reports
        ],
        "frames: from the key frame on; agrees: pixels with the name that a fresh decision gives"
        + ("" if fresh is None else f", which has a mIoU of {fresh:.3f}"),
    )
    refused = sum(one["refused"] for one in reports)
    say(f"{refused} times a frame had to be segmented itself.")
    return {"propagated": reports, "miou": fresh}


def _carried(way: CarriedLabels) -> dict[str, Any]:
    def mean(values: list[float]) -> float | None:
        return rounded(float(np.mean(values))) if values else None

    return {
        "propagate": way.propagate,
        "distance": way.distance,
        "frames": way.frames,
        "refused": way.refused,
        "covered": mean(way.covered),
        "agreement": mean(way.agreement),
        "covered_agreement": mean(way.covered_agreement),
        "miou": None if way.matrix is None else rounded(way.matrix.mean_iou),
        "pixel_accuracy": None if way.matrix is None else rounded(way.matrix.pixel_accuracy),
        "mean_confidence": mean(way.confidence),
        "ms_per_frame": round(float(np.median(way.times_ms)), 2) if way.times_ms else None,
    }


@dataclass
class _Way:
    """One way to filter, and what it did so far."""

    name: str
    seconds: float
    filter: TemporalFilter[Any]
    flicker: Flicker = field(default_factory=Flicker)
    differs: list[float] = field(default_factory=list)
    times_ms: list[float] = field(default_factory=list)

    def add(self, result: Segmentation, stamp: float, image: NDArray[np.uint8], sight: Sight) -> None:
        start = perf_counter()
        # A sight is made anew, because its making is a part of the time.
        view: DownscaledFrame | Sight = (
            DownscaledFrame.of(image)
            if self.name == "flow"
            else Sight(sight.intrinsics, sight.depth, sight.camera_to_world)
        )
        filtered = self.filter.apply(result, stamp, view)
        self.times_ms.append((perf_counter() - start) * 1e3)
        self.flicker.add(filtered.labels, sight)
        self.differs.append(float((filtered.labels != result.labels).mean()))

    def report(self) -> dict[str, Any]:
        return {
            "temporal_filter": self.name,
            "temporal_filter_time": self.seconds,
            "flicker": rounded(self.flicker.rate),
            "other_than_unfiltered": rounded(float(np.mean(self.differs))),
            "ms_per_frame": round(float(np.median(self.times_ms)), 2),
        }


def _shown(share: float | None) -> str:
    return "nothing to compare" if share is None or np.isnan(share) else f"{share:.1%}"
