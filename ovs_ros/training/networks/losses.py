"""The losses of the trained network. `candidates.py` makes the categories and the truth.

- `binary_cross_entropy`: per-pixel BCE over the candidates, the loss of DCP-CLIP, FGAseg and LMSeg.
- `patch_cross_entropy`: a softmax over the candidates at patch resolution, from which the auxiliary selection
  head learns (FGAseg, SED).
- `TextPixelAlignment`: FGAseg's T2P loss.

In all of them padding counts for nothing, and categories may stand in any order.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.training.networks.candidates import Candidates, shares, targets

T2P_WEIGHT = 0.02
"""lambda_1 of FGAseg: what `TextPixelAlignment` is multiplied with beside the pixel loss."""
FAR = -1e4
"""A logit that no softmax sees, and finite, so that gradients stay so."""


def binary_cross_entropy(logits: Tensor, labels: Tensor, candidates: Candidates) -> Tensor:
    """Per-pixel BCE: the mean over labelled pixels of all images and their candidates.

    Args:
        logits: (B, M, h, w); upsampled bilinearly to the labels' size where they are smaller.
        labels: (B, H, W) integer columns of the vocabulary, or IGNORE.
        candidates: what the M logits stand for.

    Returns:
        A scalar, 0 for a perfect answer and where no pixel counts.
    """
    true, counted = targets(labels, candidates)
    loss = F.binary_cross_entropy_with_logits(
        _resize(logits, labels), true.to(logits.dtype), reduction="none"
    )
    weight = counted[:, None] * candidates.mask[:, :, None, None].to(loss.dtype)
    return (loss * weight).sum() / weight.sum().clamp(min=1e-6)


def patch_cross_entropy(logits: Tensor, labels: Tensor, candidates: Candidates) -> Tensor:
    """The auxiliary selection loss: cross entropy of all pixels, their patches' logits being theirs.

    Args:
        logits: (B, M, h, w) of the auxiliary head, one a patch.
        labels: (B, H, W) integer columns of the vocabulary, or IGNORE.
        candidates: what the M logits stand for.

    Returns:
        A scalar; the least it can be is the entropy of the categories within a patch.
    """
    share, known = shares(labels, candidates, (logits.shape[2], logits.shape[3]))
    logits = logits.masked_fill(~candidates.mask[:, :, None, None], FAR)
    loss = F.cross_entropy(logits, share.to(logits.dtype), reduction="none")  # (B, h, w)
    return (loss * known).sum() / known.sum().clamp(min=1e-6)


def even_bias(logits: Tensor, share: float) -> Tensor:
    """The number that, added to all logits, brings their mean probability to `share`.

    With it a binary cross entropy starts: scaled cosines are far from right probabilities, and all parts of a
    network would first learn to give the same large number everywhere, which drowns
    what they should tell apart.

    Args:
        logits: of any shape.
        share: of right answers among them, in (0, 1).

    Returns:
        A scalar of the logits' dtype, by bisection.
    """
    low, high = -logits.max() - 20.0, -logits.min() + 20.0
    for _ in range(50):
        middle = (low + high) / 2
        if (logits + middle).sigmoid().mean() > share:
            high = middle
        else:
            low = middle
    return (low + high) / 2


class TextPixelAlignment(nn.Module):
    """FGAseg's text-pixel alignment loss (T2Ploss): each true word makes the kernel that finds its pixels.

    As in CRIS, a linear layer turns a text into a convolution's kernel and bias; convolved with the projected
    visual map they give one map a category. The loss is the mean squared error to the category's binary mask,
    over the categories that are there. Only training needs this module.

    Readings, where the paper's formula is lost: masks and maps meet at patch resolution, the mask averaged
    over each patch; a map passes a sigmoid, so that it is a mask.

    Args:
        text_width: D of the texts.
        visual_width: C of the visual map.
        width: channels that the visual map is projected to.
        kernel: side of the kernels, odd; the paper's is 3.
    """

    def __init__(self, text_width: int, visual_width: int, *, width: int = 64, kernel: int = 3) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"expected an odd kernel, got {kernel}")
        self.kernel = kernel
        self.visual = nn.Linear(visual_width, width)
        self.text = nn.Linear(text_width, width * kernel * kernel + 1)

    def maps(self, texts: Tensor, visual: Tensor) -> Tensor:
        """One map a category, (B, M, h, w), before the sigmoid, of texts (B, M, D) and a map (B, h, w, C)."""
        batch, rows, cols, _ = visual.shape
        projected = self.visual(visual).permute(0, 3, 1, 2)  # (B, width, h, w)
        around = F.unfold(projected, self.kernel, padding=self.kernel // 2)  # (B, width * kernel^2, h * w)
        # Times the root of D, a unit vector's numbers are of about unit size; so is the sum, divided thus.
        made = self.text(texts * texts.shape[2] ** 0.5)  # (B, M, width * kernel^2 + 1)
        maps = made[..., :-1] @ around / around.shape[1] ** 0.5 + made[..., -1:]
        return maps.view(batch, -1, rows, cols)

    def forward(self, texts: Tensor, visual: Tensor, labels: Tensor, candidates: Candidates) -> Tensor:
        """The loss, to be weighted with `T2P_WEIGHT`.

        Args:
            texts: (B, M, D) unit embeddings of the candidates, after P2Tformer where there is one.
            visual: (B, h, w, C) visual map, of numbers of about unit size.
            labels: (B, H, W) integer columns of the vocabulary, or IGNORE.
            candidates: what the M texts stand for.

        Returns:
            A scalar; 0 where no category is there.
        """
        maps = self.maps(texts, visual).sigmoid()  # (B, M, h, w)
        share, known = shares(labels, candidates, (maps.shape[2], maps.shape[3]))
        there = (share > 0).any(dim=3).any(dim=2)  # (B, M)
        weight = known[:, None] * there[:, :, None, None]
        return ((maps - share) ** 2 * weight).sum() / weight.sum().clamp(min=1e-6)


def _resize(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.shape[2:] == labels.shape[1:]:
        return logits
    size = (labels.shape[1], labels.shape[2])
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)
