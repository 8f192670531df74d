"""From a model file to a pair of encoders. The packages that a model needs are imported only for it."""

from pathlib import Path

from ovs_ros.encoders.model_file import ModelFile
from ovs_ros.encoders.protocols import ImageEncoder, TextEncoder


def load_model(file: ModelFile) -> tuple[ImageEncoder, TextEncoder]:
    """Open the model that a file describes.

    Raises:
        ValueError: no such model, or weights that do not fit it.
        FileNotFoundError: weights are missing; the message says how to get them.
        ModuleNotFoundError: a package that it needs is not installed.
    """
    if file.exported:
        from ovs_ros.encoders.onnx_folder import load_exported

        return load_exported(
            Path(file.model), device=file.device, precision=file.precision, templates=file.templates
        )
    from ovs_ros.encoders.clip.imports import import_open_clip

    try:
        import_open_clip()  # First, for it says what to install; the others import torch without a word.
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error}; or, if {file.model} is to be a folder that 'ovs export' wrote, copy it to where the "
            "model file has it",
            name=error.name,
        ) from error
    from ovs_ros.encoders.clip.image_encoder import TorchImageEncoder
    from ovs_ros.encoders.clip.text_encoder import ClipTextEncoder
    from ovs_ros.zoo.families import load_dense_model

    model = load_dense_model(file)
    image = TorchImageEncoder(
        model,
        patches=file.patches,
        device=file.device,
        precision=file.precision,
        window=0 if model.cuts_windows else file.window,
        stride=0 if model.cuts_windows else file.stride,
    )
    return image, ClipTextEncoder(model, file.templates)
