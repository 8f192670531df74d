"""CAT-Seg's test protocol: four overlapping windows of the image and the whole image, averaged."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ovs_ros.encoders.clip.clip_model import unit
from ovs_ros.encoders.clip.dense_model import DenseModel, TorchFeatures
from ovs_ros.encoders.clip.sliding_windows import crops, lay_windows, merge
from ovs_ros.encoders.model_file import ModelFile
from ovs_ros.zoo.cat_seg import CatSeg


class CatSegWindows(DenseModel):
    """Decodes 2 x 2 windows and the whole image apart, and averages what a sigmoid makes of the logits.

    The image is resized to a square of `window` + `stride` pixels, whatever its shape, as the authors do
    (640 = 384 + 256); each view to the model's own resolution. A pixel's probability is the mean over the
    windows that see it, then the mean of that and of the whole image's; `decode` gives its logit. Averages
    are taken on the decoder's grid, four cells to a patch; the authors interpolate to pixels first.

    Five views cost five times as much as one pass, in `dense` and in `decode`.

    Args:
        model: CAT-Seg.
        window: side of a window in pixels.
        stride: from one window to the next, in pixels; 0: half a window.

    Raises:
        ValueError: the step is longer than the window, or no whole number of the decoder's cells.
    """

    decodes = True
    cuts_windows = True
    decode_scale = 4
    templates = CatSeg.templates

    def __init__(self, model: CatSeg, window: int = 384, stride: int = 256) -> None:
        super().__init__()
        stride = stride or window // 2
        resolution = model.config.resolution
        cells = self.decode_scale * resolution // model.stride
        if not 0 < stride <= window or stride * cells % window:
            raise ValueError(
                f"expected windows and a stride up to their side that is a multiple of 1/{cells} of it, got "
                f"{window} and {stride}; the authors take 384 and 256"
            )
        self.model = model
        self.window, self.step, self.resolution = window, stride, resolution
        self.name = f"{model.name}-windows{window}-{stride}"
        self.dim, self.stride, self.logit_scale = model.dim, model.stride, model.logit_scale
        self.mean, self.std = model.mean, model.std

    def dense(self, images: Tensor) -> TorchFeatures:
        """See `DenseModel`. `patches` and `image` come from the whole image at the model's resolution.

        `decoding` holds patches and decoding of the views, (B, 5, …) each: the windows, row by row, and
        the whole.
        """
        side = self.window + self.step
        windows = crops(_resized(images, side), lay_windows(side, side, self.window, self.step), 1)
        views = torch.cat(
            [_resized(one, self.resolution) for one in (windows, _resized(images, self.window))]
        )
        features = self.model.dense(views)  # of 5B views, the images of each view together
        decoding = tuple(
            t.unflatten(0, (-1, len(images))).transpose(0, 1) for t in (features.patches, *features.decoding)
        )
        whole = features.patches[-len(images) :].permute(0, 3, 1, 2)  # (B, D, ., .)
        grid = images.shape[2] // self.stride, images.shape[3] // self.stride
        whole = F.interpolate(whole, grid, mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
        return TorchFeatures(unit(whole), features.image[-len(images) :], decoding)

    def decode(self, features: TorchFeatures, words: Tensor) -> Tensor:
        """See `DenseModel`: (M, s, s) with s cells along the resized image."""
        views = []
        for view in range(features.decoding[0].shape[1]):
            patches, *others = (tensor[:, view] for tensor in features.decoding)
            one = TorchFeatures(patches, features.image, tuple(others))
            views.append(torch.sigmoid(self.model.decode(one, words).float()))  # (M, c, c)
        *parts, whole = views
        cells = whole.shape[-1]
        step = self.step * cells // self.window
        windows = lay_windows(cells + step, cells + step, cells, step)
        seen = merge(torch.stack(parts).permute(0, 2, 3, 1), windows).permute(2, 0, 1)
        mean = (seen + _resized(whole[None], cells + step)[0]) / 2
        return torch.logit(mean, eps=1e-6).to(words.dtype)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """See `DenseModel`."""
        return self.model.embed_texts(texts)


def as_tested(model: CatSeg, file: ModelFile) -> CatSeg | CatSegWindows:
    """CAT-Seg, where a model file has a `window` as the authors test it."""
    return CatSegWindows(model, file.window, file.stride) if file.window else model


def _resized(images: Tensor, side: int) -> Tensor:
    """Images (B, C, H, W), bilinearly resized to a square, without antialiasing as the authors do."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bilinear", align_corners=False)
