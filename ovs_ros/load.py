"""From a name or a folder to a segmenter: the only place that knows every kind of model.

What a model needs is imported only for it, so that importing this module costs nothing.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovs_ros.encoders.model_file import ModelFile
    from ovs_ros.model import Model
    from ovs_ros.segmenter import Segmenter

OFF = "off"


def load(
    name: str | Path = "stream",
    *,
    device: str = "auto",
    models: Path | None = None,
    network_file: Path | None = None,
    threads: int = 0,
    attributes: str = OFF,
    attribute_weight: float = 0.1,
    second_encoder: str | Path = OFF,
    fusion: str | Path = OFF,
    negatives: str = "generic",
    **options: object,
) -> "Segmenter":
    """Load a model and make a segmenter of it, with word embeddings cached on disk.

    Args:
        name: which model: 'stream' (fast) or 'quality' (detailed), the embedded model at one and at several
            scales; an architecture and weights of open_clip such as 'ViT-B-16:openai' (weights may be a
            file); the name of a shipped model file such as 'cat-seg-b' (`ovs models` lists them); a model
            file (YAML); or a folder that `ovs export` or `ovs train` wrote.
        device: 'auto' (a GPU where there is one), 'cpu', 'cuda' or 'cuda:N'; in place of the model file's.
        models: for 'stream' and 'quality', another folder with the embedded model's files.
        network_file: a trained network (ONNX) in place of the model's own; the selection head beside it too.
        threads: how many threads of the CPU the process computes with (see runtime/threads.py); 0: one for
            each core that it may use.
        attributes: what words look like (LMSeg): 'off', 'shipped', or a YAML file laid over the shipped.
        attribute_weight: the attributes' share of a word's embedding; see `Attributes`.
        second_encoder: ONNX file of a second image encoder (LMSeg); 'off' for none.
        fusion: what `ovs train fusion` wrote for the second encoder.
        negatives: words that compete for pixels beside a vocabulary without negative words of its own:
            'generic' (a few that fit most pictures), 'off', or words separated by commas.
        options: fields of `SegmenterOptions` that differ from their defaults.

    Raises:
        TypeError: an option that does not exist, or of another type.
        ValueError: no such model, an option out of range, or files that do not belong together.
        FileNotFoundError: weights or files are missing; the message says how to get them.
        ModuleNotFoundError: a package that the model needs is not installed.
    """
    from dataclasses import replace

    from ovs_ros.encoders.fusion import with_second
    from ovs_ros.options import SegmenterOptions
    from ovs_ros.runtime.threads import use_threads
    from ovs_ros.segmenter import Segmenter
    from ovs_ros.vocabulary.attributes import load_attributes
    from ovs_ros.vocabulary.cache import EmbeddingCache
    from ovs_ros.vocabulary.generic_negatives import read_negatives

    checked = SegmenterOptions(**options)  # type: ignore[arg-type]  # checked at run time, field by field
    looks = load_attributes(attributes, attribute_weight)
    generic = read_negatives(negatives)
    use_threads(threads)
    model = load_model(name, device=device, models=models)
    if network_file is not None:
        model = _refined(model, network_file)
    model = replace(model, image_encoder=with_second(model.image_encoder, second_encoder, fusion))
    frame_path = None
    if getattr(model.image_encoder, "stream", None) is not None:  # A torch model on a GPU.
        from ovs_ros.steps.torch_frame import TorchFrame

        frame_path = TorchFrame(model.image_encoder)  # type: ignore[arg-type]
    return Segmenter(model, checked, EmbeddingCache(), looks, frame_path, generic)


def load_model(name: str | Path, *, device: str = "auto", models: Path | None = None) -> "Model":
    """Load a model; see `load` for the arguments and errors."""
    from ovs_ros.encoders import embedded

    folder = Path(name).expanduser()
    if str(name) in embedded.PRESETS:
        return _embedded(str(name), embedded.MODELS if models is None else models)
    if embedded.is_embedded_model(folder):
        return _embedded("stream", folder)
    from dataclasses import replace

    from ovs_ros.encoders.model_file import MODEL_FILE, ModelFile, find_model_file, read_model_file
    from ovs_ros.runtime.checksums import check_files

    if folder.is_dir() and not (folder / MODEL_FILE).is_file():
        file = ModelFile(str(folder) if "/" in str(folder) else f"./{folder}")
    elif ":" in str(name) and not folder.exists():
        architecture, _, weights = str(name).partition(":")
        file = ModelFile(architecture, weights)
    else:
        path = find_model_file(str(name))
        check_files(path.parent)
        file = read_model_file(path)
    return open_model(file if device == "auto" else replace(file, device=device))


def open_model(file: "ModelFile") -> "Model":
    """Open the model that a model file describes.

    Raises:
        ValueError: no such model, or weights that do not fit it.
        FileNotFoundError: weights are missing; the message says how to get them.
        ModuleNotFoundError: a package that it needs is not installed.
    """
    from ovs_ros.encoders import embedded
    from ovs_ros.model import Model
    from ovs_ros.steps.selection_head import find_selection_head
    from ovs_ros.vocabulary.knowledge import knowledge_of

    if file.embedded:
        shipped = file.model in embedded.PRESETS
        name, folder = (file.model, embedded.MODELS) if shipped else ("stream", Path(file.model))
        return _embedded(name, folder, file.network)
    if file.exported:
        from ovs_ros.encoders.manifest import FILE
        from ovs_ros.encoders.onnx_folder import load_exported

        image, text = load_exported(
            Path(file.model), device=file.device, precision=file.precision, templates=file.templates
        )
        return Model(
            image,
            text,
            knowledge=knowledge_of(image.manifest.trained_names),
            selection_head=find_selection_head(Path(file.model) / FILE) if image.manifest.selects else None,
        )
    from ovs_ros.encoders.clip.imports import import_open_clip

    try:
        import_open_clip()  # First, because its error says what to install.
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error}; or, if {file.model} is to be a folder that 'ovs export' wrote, copy it to where the "
            "model file has it",
            name=error.name,
        ) from error
    from ovs_ros.encoders.clip.image_encoder import TorchImageEncoder
    from ovs_ros.encoders.clip.text_encoder import ClipTextEncoder
    from ovs_ros.zoo.families import load_dense_model

    dense = load_dense_model(file)
    return Model(
        TorchImageEncoder.of(dense, file),
        ClipTextEncoder(dense, file.templates),
        knowledge=knowledge_of(dense.trained_names),
        selection_head=find_selection_head(dense.selection_file) if dense.selection_file else None,
    )


def _embedded(name: str, folder: Path, network: str = "") -> "Model":
    from ovs_ros.encoders import embedded
    from ovs_ros.model import Model
    from ovs_ros.steps.network import NETWORK_FILE
    from ovs_ros.vocabulary.knowledge import load_knowledge

    image, text = embedded.load(name, models=folder)
    model = Model(
        image,
        text,
        temperature=embedded.load_temperature(name, folder),
        knowledge=load_knowledge(folder),
        digest=embedded.digest(folder, text),
    )
    file = Path(network) if network else folder / NETWORK_FILE
    return _refined(model, file) if network or file.is_file() else model


def _refined(model: "Model", network: Path) -> "Model":
    """A model with the trained network in an ONNX file, and the selection head beside it."""
    from ovs_ros.steps.network import Network
    from ovs_ros.steps.selection_head import find_selection_head

    return model.refined(Network(network), find_selection_head(network))
