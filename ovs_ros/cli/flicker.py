"""`ovs flicker`: how steady the names of a recording are, and what the temporal filter does about it."""

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
from ovs_ros.cli.options import with_flags
from ovs_ros.evaluation.flicker import Flicker
from ovs_ros.geometry.flow import DownscaledFrame
from ovs_ros.geometry.reprojection import Sight
from ovs_ros.geometry.rgbd_folder import RgbdFolder
from ovs_ros.options import LoadOptions, NodeOptions, SegmenterOptions
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.steps.temporal_filter import TemporalFilter, flow_filter, pose_filter


@with_flags()
def flicker(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="Holds NNNN.color.jpg, NNNN.depth.png (uint16 millimetres), NNNN.pose.txt (4x4, camera to "
            "world) and intrinsics.txt (3x3).",
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
    json_file: JsonOption = None,
    *,
    load: LoadOptions,
    options: SegmenterOptions,
) -> None:
    """Measure flicker: the share of pixels whose name changes between frames that see the same point.

    Depth and poses tell which pixels of two frames show the same point. 'other than unfiltered' is the share
    of pixels to which the filter gives another name: a filter that freezes names has little flicker, and a
    high share.
    """
    recording = RgbdFolder(folder)
    names = recording.names[:frames]
    asked = asked_vocabulary(words, vocabulary)
    segmenter = load_segmenter(load, options)
    embedded = embed_words(segmenter, asked)
    ways = [
        _Way(name, seconds, make(seconds))
        for seconds in (temporal_filter_time or [NodeOptions.temporal_filter_time])
        for name, make in (("flow", flow_filter), ("pose", pose_filter))
    ]
    off, skipped = Flicker(), Skipped()
    stamps = {name: number / rate for number, name in enumerate(names)}
    for name, (image, sight) in read_each(names, recording.read, skipped, "Segmenting"):
        result = segmenter.segment(image, embedded)
        off.add(result.labels, sight)
        for way in ways:
            way.add(result, stamps[name], image, sight)
    done, compared = len(names) - len(skipped), off.compared / max(off.seen, 1)
    reports = [way.report() for way in ways]
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
    )
    say(f"{done} frames; {compared:.0%} of the pixels could be compared. Model {segmenter.model.name}.")
    results = {
        "frames": done,
        "compared_share": rounded(compared),
        "flicker": rounded(off.rate),
        "filtered": reports,
        "model": segmenter.model.name,
    }
    write_json(json_file, results)
    skipped.end()


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
