"""Whole frames on the device: one upload, one CUDA graph, one download, for one frame or for several at once.

The same steps as segmenter.py takes, to the same answer, for models whose cosines are all there is. A graph
replays fixed shapes, so nothing here depends on how many categories a frame selects: there are as many slots
as the selection may fill, and the logits of empty ones are so low that they change no softmax.
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from ovs_ros.encoders.clip.image_encoder import ShapeBuffers, TorchImageEncoder
from ovs_ros.encoders.patches import place
from ovs_ros.options import SegmenterOptions
from ovs_ros.runtime.finite import require_finite
from ovs_ros.runtime.stage_clock import StageClock
from ovs_ros.runtime.torch_device import is_out_of_memory
from ovs_ros.runtime.torch_graph import StaticCall
from ovs_ros.runtime.torch_resize import Shrink
from ovs_ros.steps.grid import covered
from ovs_ros.steps.segmentation import Segmentation, segmentation
from ovs_ros.steps.selection import SCREEN_CELLS, SKETCH_LISTS, pooling
from ovs_ros.steps.torch_decoder import DeviceAxis, decode, device_axis
from ovs_ros.steps.torch_selection import Slots, everything, select
from ovs_ros.steps.torch_words import CAPACITIES, DeviceWords, capacities
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

LOG = logging.getLogger(__name__)
MOST_SLOTS = 128
"""How many words a frame is decided among at most here: the logits of each are computed for every pixel."""
_PLANS = 4
"""For how many kinds of frames graphs are kept."""
_COUNTABLE = 1 << 24
"""Beyond this number a float32 does not change when 1 is added."""
_CHECK = 8
"""Bytes behind the answer: the least and the highest value of all embeddings, as float32."""
_ALIGNED = 8
"""Answers of several frames begin at multiples of so many bytes, as what reads their floats wants it."""
_NOWHERE = -1e30
"""The logit of an empty slot: finite, for 0 times infinity would spoil the interpolation beside it."""


def refusal(
    encoder: TorchImageEncoder, words: WordEmbeddings, options: SegmenterOptions, network: bool
) -> str | None:
    """Why `TorchFrame` cannot take such frames; None if it can.

    Args:
        encoder: of the model.
        words: the vocabulary.
        options: how frames are decided.
        network: whether a trained network refines the logits.
    """
    count = len(words.ids)
    selected = min(options.max_categories, count) if options.select else count
    named = selected + len(words.embeddings) - count
    by_sketch = options.select and words.sketch is not None and count > SKETCH_LISTS * options.shortlist
    reasons = {
        "a trained network refines the logits": network,
        "the model has a decoder of its own": encoder.model.decodes,
        f"validation is '{options.validation}'": options.validation != "off",
        f"postprocess is '{options.postprocess}'": options.postprocess != "none",
        f"there are more than {CAPACITIES[-1]} categories": count > CAPACITIES[-1],
        f"a frame is decided among more than {MOST_SLOTS} words": named > MOST_SLOTS,
        "the vocabulary is screened by its sketch": by_sketch,
        "categories have examples": words.prototypes is not None,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


class _Plan(NamedTuple):
    """What is kept for one kind of frame."""

    shape: ShapeBuffers  # The encoder's buffers for such images.
    shrinks: bool  # Whether the device resizes the image; else it comes in its grid already.
    canvas: Tensor  # Images as they came, (B, H, W, 3) uint8 RGB, or in their grid; pinned beside a GPU.
    images: Tensor  # The same on the device; the canvas itself on a CPU.
    slots: int  # How many categories can be selected.
    run: StaticCall[Tensor]  # From `images` to (B, bytes), see `_unpack`, `_CHECK` and `_ALIGNED`.


class TorchFrame:
    """Decides frames on the device of an image encoder; not for two threads at once.

    Args:
        encoder: the image encoder of the model.
        on_cpu: work on a CPU too, where the steps are faster one by one; to compare the two.
    """

    def __init__(self, encoder: TorchImageEncoder, *, on_cpu: bool = False) -> None:
        self._encoder = encoder
        self._on_cpu = on_cpu
        self._footprint = encoder.footprint
        self._plans: OrderedDict[object, dict[int, _Plan]] = OrderedDict()
        self._words: dict[object, DeviceWords] = {}
        self._refused: set[str] = set()

    def segment(
        self,
        images: Sequence[NDArray[np.uint8]],
        words: WordEmbeddings,
        options: SegmenterOptions,
        *,
        temperature: float,
        network: bool,
    ) -> dict[int, Segmentation]:
        """Segment frames, those of one size together; the stages are 'prepare', 'launch' and 'wait'.

        Args:
            images: (H, W, 3) uint8 RGB each.
            words: the vocabulary.
            options: how frames are decided, but for the temperature.
            temperature: what logits are divided by after the selection.
            network: whether a trained network refines the logits.

        Returns:
            the result of each image by its index. None of them for frames that this way cannot take; the log
            says why, once for each reason. Some are missing where memory was full: the encoder needs less
            from now on.

        Raises:
            RuntimeError: the device fails, or its memory is too small even for the last fallback.
            NotFiniteError: the encoder gives NaN or infinity.
        """
        encoder = self._encoder
        if encoder.stream is None and not self._on_cpu:
            return {}
        reason = refusal(encoder, words, options, network)
        if reason is not None:
            if reason not in self._refused:
                self._refused.add(reason)
                LOG.warning("Frames leave the fast path on %s and take longer: %s", encoder.device, reason)
            return {}
        done: dict[int, Segmentation] = {}
        left = list(range(len(images)))
        while left:
            if self._footprint is not encoder.footprint:
                self._release()  # Memory was full meanwhile, and these graphs hold some of it.
            size = images[left[0]].shape[0], images[left[0]].shape[1]
            alike = [i for i in left if images[i].shape[:2] == size]
            shape = encoder.buffers(*size, encoder.batch_size(len(alike)))
            chosen = alike[: len(shape.canvas)]
            try:
                results = self._run([images[i] for i in chosen], shape, words, options, temperature)
            except RuntimeError as error:
                full = is_out_of_memory(error)
                if not full or not encoder.fall_back(len(shape.windows.corners), len(chosen)):
                    raise
                self._release()
                break
            done.update(zip(chosen, results, strict=True))
            left = [i for i in left if i not in done]
        return done

    def _run(
        self,
        images: Sequence[NDArray[np.uint8]],
        shape: ShapeBuffers,
        words: WordEmbeddings,
        options: SegmenterOptions,
        temperature: float,
    ) -> list[Segmentation]:
        """Segment as many images of one size as `shape` holds, in one go."""
        encoder, clock = self._encoder, StageClock()
        size = images[0].shape[0], images[0].shape[1]
        plan = self._plan(shape, size, words, options, temperature)
        for image, canvas in zip(images, plan.canvas.numpy(), strict=True):
            if plan.shrinks:
                np.copyto(canvas, image)
            else:
                place(image, shape.grid, canvas)
        clock.stage("prepare")
        if plan.images is not plan.canvas:
            with torch.cuda.stream(encoder.stream):
                plan.images.copy_(plan.canvas, non_blocking=True)
        packed = plan.run()
        clock.stage("launch")
        answers = encoder.fetch(packed)  # (B, bytes)
        clock.stage("wait")
        length = 12 * plan.slots + size[0] * size[1] * (3 if words.vocabulary.wide else 2)
        checks = answers[:, length : length + _CHECK].copy().view(np.float32)
        require_finite(checks, "image embeddings", encoder.name)
        return [
            _unpack(answer[:length], size, plan.slots, words, dict(clock.stages_ms)) for answer in answers
        ]

    def _release(self) -> None:
        """Give up all graphs and buffers."""
        self._plans.clear()
        self._words.clear()
        self._footprint = self._encoder.footprint

    def _plan(
        self,
        shape: ShapeBuffers,
        size: tuple[int, int],
        words: WordEmbeddings,
        options: SegmenterOptions,
        temperature: float,
    ) -> _Plan:
        """The plan for as many such frames as `shape` holds, made anew if need be, the words in place."""
        encoder = self._encoder
        device = encoder.footprint.device
        room = device, capacities(words), words.vocabulary.wide
        screened = options.select and len(words.ids) > options.shortlist
        # Everything of the options that is part of the graph; thresholds lie in the words' buffers.
        key = size, room, screened, temperature, replace(options, threshold=0.0, temperature=1.0)
        with torch.cuda.stream(encoder.stream):
            if room not in self._words:
                self._words[room] = DeviceWords(words, device)
            held = self._words[room]
            held.hold(words, options.threshold)
            count = len(shape.canvas)
            plans = self._plans.setdefault(key, {})
            self._plans.move_to_end(key)
            if len(self._plans) > _PLANS:
                self._plans.popitem(last=False)
            if count in plans and plans[count].shape is shape:
                return plans[count]
            sides, valid = (shape.grid.rows, shape.grid.columns), shape.grid.valid
            scale = encoder.logit_scale
            rows, cols = covered(sides[0], valid[0]), covered(sides[1], valid[1])
            down = device_axis(rows, sides[0] * valid[0], size[0], device)
            across = device_axis(cols, sides[1] * valid[1], size[1], device)
            cells = torch.tensor(pooling(rows, cols, SCREEN_CELLS), device=device) if screened else None

            scaled = shape.grid.height, shape.grid.width
            shrinks = scaled[0] < size[0] and scaled[1] <= size[1]
            canvas, images = shape.canvas, shape.pixels
            if shrinks:
                pinned = encoder.stream is not None
                canvas = torch.empty((count, *size, 3), dtype=torch.uint8, pin_memory=pinned)
                images = canvas if encoder.stream is None else canvas.to(device)
            shrink = Shrink(size, scaled, device) if shrinks else None
            placed = shape.pixels[:, : scaled[0], : scaled[1]]

            def decided(embeddings: Tensor) -> Tensor:  # (h*w + 1, D) to (bytes,) uint8
                grid = embeddings[:-1].unflatten(0, sides)[:rows, :cols]  # (rows, cols, D)
                patches = grid.flatten(0, 1)
                slots = (
                    select(patches, embeddings[-1], held, scale, options, cells)
                    if options.select
                    else everything(held)
                )
                packed = _decide(grid, slots, held, scale / temperature, down, across)
                check = torch.stack(embeddings.aminmax()).float()  # Both pass on NaN.
                answer = torch.cat((packed, check.view(torch.uint8)))
                return pad(answer, (0, -len(answer) % _ALIGNED))

            def run() -> Tensor:
                if shrink is not None:
                    for image, target in zip(images, placed, strict=True):
                        target.copy_(shrink(image))
                embeddings = encoder.forward(shape.pixels, shape.windows).embeddings  # (B, h*w + 1, D)
                with torch.inference_mode():
                    return torch.stack([decided(one) for one in embeddings])

            slots = held.categories
            if options.select:
                slots = min(options.max_categories, options.shortlist if screened else slots)
            plans[count] = _Plan(shape, shrinks, canvas, images, slots, encoder.static_call(run))
        return plans[count]


def _decide(
    grid: Tensor, slots: Slots, words: DeviceWords, scale: float, down: DeviceAxis, across: DeviceAxis
) -> Tensor:
    """The packed answer, (bytes,) uint8: see `_unpack`.

    Args:
        grid: (rows, cols, D) unit embeddings of the nodes that the image covers.
        slots: the m slots for categories; negatives follow.
        words: the vocabulary.
        scale: what cosines are multiplied with.
        down, across: where the pixels lie.
    """
    count = words.categories
    embeddings = torch.cat((words.embeddings[slots.rows], words.embeddings[count:]))  # (S, D)
    filled = torch.cat((slots.filled, words.there[count:]))  # (S,)
    logits = (grid @ (embeddings * scale).T).masked_fill(~filled, _NOWHERE)  # (rows, cols, S)
    winner, confidence = decode(logits, down, across)  # (H, W) each
    least = torch.cat((words.least[slots.rows], words.least[count:]))
    winner = torch.where(confidence < least[winner], len(filled), winner)
    labels = torch.cat((words.ids[slots.rows], words.ids[count:], words.unknown))[winner]
    pixels = _count(winner, len(filled) + 1)
    rows = torch.where(slots.filled, slots.rows, -1).float()
    head = torch.cat((rows, slots.scores, pixels[: len(rows)]))  # (3 m,)
    return torch.cat([part.flatten().view(torch.uint8) for part in (head, labels, confidence)])


def _count(values: Tensor, bins: int) -> Tensor:
    """How often each number from 0 to bins - 1 is in (H, W) whole numbers: (bins,) float32.

    `bincount`, which counts in integers, waits for the device; `histc` adds up float32.
    """
    strips = values.split(max(1, _COUNTABLE // values.shape[1]))
    return torch.stack([strip.float().histc(bins, min=0, max=bins) for strip in strips]).sum(0)


def _unpack(
    answer: NDArray[np.uint8],
    size: tuple[int, int],
    slots: int,
    words: WordEmbeddings,
    stages_ms: dict[str, float],
) -> Segmentation:
    """The answer of `_decide`, whose arrays stay views of it.

    Args:
        answer: for each of m slots, as float32: its row or -1, its score, its pixels; then the labels and the
            confidence of all pixels.
        size: (H, W).
        slots: m.
        words: the vocabulary.
        stages_ms: milliseconds of each stage.
    """
    pixels = size[0] * size[1]
    head, labels, confidence = np.split(answer, [12 * slots, len(answer) - pixels])
    rows, scores, counts = head.view(np.float32).reshape(3, slots)
    filled = rows >= 0
    classes = rows[filled].astype(np.intp)  # (M,) ascending
    shares = counts[filled] / np.float32(pixels)
    ids = labels.view(np.uint16 if words.vocabulary.wide else np.uint8).reshape(size)
    unknown = float(1 - counts[filled].sum() / pixels)
    confidence = confidence.reshape(size)
    return segmentation(
        words.vocabulary, classes, scores[filled], confidence, ids, shares, unknown, stages_ms
    )
