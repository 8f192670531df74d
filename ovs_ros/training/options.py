"""What can be set for each recipe, without torch: the flags of `ovs train` are made of these declarations."""

from dataclasses import dataclass, field
from math import inf
from typing import Any, ClassVar, Literal

from ovs_ros.options import declared

Schedule = Literal["cosine", "poly"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda"]


def _option(default: Any, text: str, low: float = 0, high: float = inf) -> Any:
    number = isinstance(default, int | float) and not isinstance(default, bool)
    return field(default=default, metadata={"help": text, "limits": (low, high) if number else None})


def _steps(default: int) -> Any:
    return _option(default, "Number of steps, one batch each.", 1)


def _batch(default: int) -> Any:
    return _option(default, "Images a step, over all processes.", 1)


def _rate(default: float) -> Any:
    return _option(default, "Peak learning rate.", 1e-9, 1e3)


def _average(default: float) -> Any:
    return _option(
        default,
        "Evaluate and save a moving average of the weights, of which at most so much stays in a step; 0: the "
        "last weights.",
        0,
        1,
    )


def _warm_up(default: int) -> Any:
    return _option(default, "Steps in which the learning rate increases.")


def _precision(default: str) -> Any:
    return _option(default, "'fp16' needs a GPU; 'auto': what suits the device.")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the loop takes. Each field's declaration says what it does.

    Two runs with the same options, data and seed are the same; the options in `free` may change when a run
    goes on.

    Raises:
        TypeError: a field has another type.
        ValueError: a field is out of its range.
    """

    free: ClassVar[tuple[str, ...]] = (
        "device", "workers", "log_every", "evaluate_every", "save_every",
    )  # fmt: skip

    steps: int = _steps(1000)
    batch: int = _batch(8)
    rate: float = _rate(1e-3)
    schedule: Schedule = _option("cosine", "How the learning rate decreases; 'poly' has power 0.9.")
    warm_up: int = _warm_up(60)
    average: float = _average(0.0)
    precision: Precision = _precision("auto")
    seed: int = _option(0, "Seed of all random numbers.")
    device: Device = _option("auto", "'auto': a GPU if there is one.")
    log_every: int = _option(25, "Write losses every so many steps.", 1)
    evaluate_every: int = _option(10_000, "Evaluate every so many steps, and at the end.", 1)
    save_every: int = _option(250, "Save a checkpoint every so many steps, and at the end.", 1)

    def __post_init__(self) -> None:
        for name, option in declared(type(self)).items():  # type: ignore[arg-type]  # classes hash
            object.__setattr__(self, name, option.checked(getattr(self, name)))


@dataclass(frozen=True, kw_only=True)
class EmbeddedOptions(Options):
    """Of `recipes.embedded`."""

    free: ClassVar[tuple[str, ...]] = (*Options.free, "images")

    steps: int = _steps(4000)
    batch: int = _batch(12)
    rate: float = _rate(1.2e-3)
    encoder_rate: float = _option(2.5e-4, "Peak learning rate of the image encoder.", 1e-9, 1e3)
    words_rate: float = _option(4e-4, "Peak learning rate of the words' side.", 1e-9, 1e3)
    warm_up: int = _warm_up(100)
    average: float = _average(0.997)
    precision: Precision = _precision("bf16")
    encoder: Literal["lite0", "lite2"] = _option("lite2", "EfficientNet-Lite0 or EfficientNet-Lite2.")
    sets: str = _option(
        "all",
        "Sets to train on, folders of DATA, separated by commas; 'all' that the project knows; 'permissive': "
        "those whose terms allow weights trained on them in a product.",
    )
    without: str = _option(
        "", "Sets to leave out of training, separated by commas. All of their images are evaluated on."
    )
    hold_out: bool = _option(True, "Keep one image in ten for evaluation, where a set has no split val.")
    height: int = _option(256, "Height of a training view, in pixels: a multiple of 32.", 64)
    width: int = _option(352, "Width of a training view, in pixels: a multiple of 32.", 64)
    points: int = _option(384, "Labelled positions a view.", 2)
    pictures: int = _option(8, "Captioned or named pictures in every second step, over all processes.", 1)
    distillation: float = _option(0.5, "Weight of the image encoder's own classifier as a teacher.")
    adjustment: float = _option(
        0.0,
        "How far rare classes of a set are lifted over frequent ones: the share of the log of their "
        "frequencies that is added to their logits in training (logit adjustment, arXiv 2007.07314).",
    )
    images: int = _option(24, "Evaluate on at most so many images of each set, evenly spaced.", 1)
    workers: int = _option(1, "Processes that read images, per training process.")
    evaluate_every: int = _option(2000, "Evaluate every so many steps, and at the end.", 1)
    save_every: int = _option(500, "Save a checkpoint every so many steps, and at the end.", 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("height", "width"):
            if getattr(self, name) % 32:
                raise ValueError(f"expected {name} to be a multiple of 32, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class FusionOptions(Options):
    """Of `recipes.fusion`."""

    steps: int = _steps(600)
    rate: float = _rate(3e-4)
    warm_up: int = _warm_up(30)


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(Options):
    """Of `recipes.network`; the papers' batch is 4 and their view 384 pixels."""

    steps: int = _steps(80_000)
    batch: int = _batch(4)
    rate: float = _rate(2e-4)
    schedule: Schedule = _option("poly", "How the learning rate decreases; 'poly' has power 0.9.")
    warm_up: int = _warm_up(500)
    size: Literal["auto", "full", "embedded"] = _option(
        "auto",
        "Size of the network: 'full' has CAT-Seg's widths, 'embedded' is for two CPU cores; 'auto': "
        "'embedded' over the embedded model.",
    )
    parts: str = _option(
        "",
        "Fields of NetworkConfig that differ from the size's: NAME=VALUE with commas, such as "
        "class_layers=2,pixel_to_text=true,local_kernels=3 (FGAseg's parts).",
    )
    alignment: bool = _option(True, "Add FGAseg's text-pixel alignment loss.")
    tune: Literal["none", "attention"] = _option(
        "none",
        "Weights of the encoders to train too: 'attention': queries and values of both towers of CLIP.",
    )
    tune_rate: float = _option(2e-6, "Peak learning rate of these weights.", 1e-9, 1e3)
    view: int = _option(384, "Side of a training view, in pixels.", 16)
    candidates: int = _option(48, "Number of categories that an image is decided among.", 1)
    distractors: int = _option(16, "How many of the candidates are drawn at random.")
    strength: float = _option(
        1.0,
        "Written share of what the network adds to the cosines. 0.5 makes the logits the mean of its own "
        "and the plain ones.",
        0,
        1,
    )
    workers: int = _option(4, "Processes that read images, per training process.")
    log_every: int = _option(50, "Write losses every so many steps.", 1)
    evaluate_every: int = _option(5000, "Evaluate every so many steps, and at the end.", 1)
    save_every: int = _option(1000, "Save a checkpoint every so many steps, and at the end.", 1)
