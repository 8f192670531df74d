"""Keeps the node at its `target_rate`: it resizes the image encoder as `SizeControl` says."""

from collections.abc import Callable, Mapping, Sequence

from ovs_ros.encoders.features import ImageEncoder, resizable
from ovs_ros.ros.size_control import SizeControl, State


class TargetRate:
    """One for all cameras, whose frames share one worker: the rates of all add up. For the worker's thread.

    Args:
        encoder: of the model, in its own size.
        rate: called for the parameter `target_rate`.
        info: called with one line for each change of the size.
        warn: called with a warning, once, where the encoder's size is fixed or the rate cannot be reached.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        rate: Callable[[], float],
        info: Callable[[str], object],
        warn: Callable[[str], object],
    ) -> None:
        self._name = encoder.name
        self._encoder = resizable(encoder)
        self._control = None if self._encoder is None else SizeControl(self._encoder.patches)
        self._rate, self._info, self._warn = rate, info, warn
        self._warned = False

    @property
    def state(self) -> State | None:
        """What the size is and why; None while no rate is asked for or the size is fixed. For any thread."""
        return self._control.state if self._control is not None and self._rate() > 0 else None

    def frames_done(self, stages_ms: Sequence[Mapping[str, float]], ms: float) -> None:
        """Take the times of a frame, and resize the encoder for the next one if need be.

        Args:
            stages_ms: of the segmenter, for each of the frames, which on a GPU may be several at once: each
                has the times of all then. Where it works in one piece, all of it counts as the encoder's.
            ms: of all that the worker did for these frames.
        """
        rate = self._rate()
        if self._encoder is None or self._control is None:
            self._warn_once(
                rate > 0,
                f"target_rate is ignored, for {self._name} cuts every image into as many patches; use "
                "stream, quality or a torch model, or set max_rate",
            )
            return
        before = self._control.state.patches
        count = len(stages_ms)
        encode = stages_ms[0].get("encode", sum(stages_ms[0].values()))
        changed = self._control.add(encode / count, ms / count, rate)
        state = self._control.state
        if changed:
            self._encoder.resize(state.patches)
            self._info(
                f"Images are cut into {state.patches} patches in place of {before} (the model's own size has "
                f"{state.of}): {state.reason}"
            )
        self._warn_once(
            not state.reached,
            f"target_rate {rate:g} Hz is not reached: a frame takes {state.frame_ms:.0f} ms at the smallest "
            "size too",
        )

    def _warn_once(self, wrong: bool, text: str) -> None:
        """Warn when something goes wrong, and again only after it was right meanwhile."""
        if wrong and not self._warned:
            self._warn(text)
        self._warned = wrong
