"""Out-of-distribution detection: scores of logits, how well they tell two sets apart, and sets to tell apart."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib._checks import check_int, check_tensor
from mmlib._typing import Float
from mmlib.experiments.data.sources import load_test
from mmlib.experiments.data.split import Split

GREY = (0.299, 0.587, 0.114)  # luminance of red, green, blue: ITU-R BT.601, Pillow's mode L
IMAGES_PER_BLOCK = 256  # drawn or resized at once in float32: 150 MiB of colour with 224 pixels on a side


def max_softmax_probability(logits: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """Compute the probability of the most probable class, in double precision; higher is more in-distribution.

    Source: Hendrycks & Gimpel (ICLR 2017).

    >>> max_softmax_probability(torch.zeros(1, 4))
    tensor([0.2500], dtype=torch.float64)
    """
    check_tensor("logits", logits, ("n", "c"))
    return logits.double().softmax(dim=1).amax(dim=1)


def energy_score(logits: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """Compute the negative free energy log Σ_k exp(z_k), in double precision; higher is more in-distribution.

    The paper's energy is E = -log Σ_k exp(z_k), lower for images in the distribution; this score is -E.

    Source: Liu et al. (NeurIPS 2020), equation 3 with its sign turned, temperature 1.

    >>> energy_score(torch.zeros(1, 1))
    tensor([0.], dtype=torch.float64)
    """
    check_tensor("logits", logits, ("n", "c"))
    return logits.double().logsumexp(dim=1)


# Scores of an evaluation, by their names in its metrics.
SCORES = {"maximum_softmax": max_softmax_probability, "energy": energy_score}


def ood_metrics(scores_in: Float[Tensor, " n"], scores_out: Float[Tensor, " k"]) -> dict[str, float]:
    """Measure how well a threshold on the scores tells images in the distribution from others, in percent.

    A threshold accepts every score that is at least as high; equal scores are accepted together.

    Args:
        scores_in: of images in the distribution, higher than the others' if the score is any good.
        scores_out: of images out of it.

    Returns:
        Five numbers, of which `fpr95` alone is better when it is lower.

        ``accuracy``: 100 minus the detection error, which is the mean of the two sets' error rates at the threshold
        where it is lowest; 50 is chance, whatever the sets' sizes.
        ``auroc``: area under the receiver operating characteristic; 50 is chance.
        ``aupr_in``, ``aupr_out``: area under precision against recall by the trapezoidal rule (our choice, as
        scikit-learn's `auc` of its `precision_recall_curve`), with one or the other set as the positive one; chance
        is that set's share of all images.
        ``fpr95``: share of `scores_out` accepted at the highest threshold that accepts 95 % of `scores_in`.

    Raises:
        TypeError: scores that are no tensor.
        ValueError: no scores, scores of another shape, or NaN.

    Source: Liang et al. (ICLR 2018), section 4; the detection accuracy is that of Lee et al. (NeurIPS 2018).

    >>> ood_metrics(torch.tensor([0.9, 0.8]), torch.tensor([0.1, 0.2]))
    {'accuracy': 100.0, 'auroc': 100.0, 'aupr_in': 100.0, 'aupr_out': 100.0, 'fpr95': 0.0}
    """
    for name, scores, size in (("scores_in", scores_in, "n"), ("scores_out", scores_out, "k")):
        check_tensor(name, scores, (size,))
        if scores.isnan().any():
            raise ValueError(f"{name} must have no NaN, got {int(scores.isnan().sum())}")
    thresholds, index = torch.cat([scores_in.double(), scores_out.double()]).unique(return_inverse=True)
    # How many of each set have every one of the distinct scores, from the highest to the lowest.
    n, steps = len(scores_in), len(thresholds)
    inside, outside = (torch.bincount(of_set, minlength=steps).flip(0) for of_set in (index[:n], index[n:]))
    tpr, fpr = (F.pad(counts.cumsum(0), (1, 0)) / counts.sum() for counts in (inside.double(), outside.double()))
    numbers = {
        "accuracy": (1 + (tpr - fpr).max()) / 2,
        "auroc": torch.trapezoid(tpr, fpr),
        "aupr_in": _precision_recall_area(inside, outside),
        "aupr_out": _precision_recall_area(outside.flip(0), inside.flip(0)),
        "fpr95": fpr[(tpr >= 0.95).nonzero()[0, 0]],
    }
    return {name: float(value) * 100 for name, value in numbers.items()}


def _precision_recall_area(positive: Tensor, negative: Tensor) -> Tensor:
    """Area from counts at every threshold, the strictest first; where nothing is accepted yet, precision is 1."""
    right, wrong = positive.cumsum(0).double(), negative.cumsum(0).double()
    precision, recall = right / (right + wrong), right / right[-1]
    return torch.trapezoid(F.pad(precision, (1, 0), value=1.0), F.pad(recall, (1, 0)))


def load_ood_images(name: str, like: Split, count: int, *, root: str | Path = "data", seed: int = 0) -> Split:
    """Images of another distribution, with the channels and the size of those of `like`.

    ==================  ===========================================================================================
    uniform             every value drawn uniformly from [0, 1] (Liang et al., ICLR 2018)
    gaussian            every value drawn from N(0.5, 1) and clipped to [0, 1] (Liang et al., ICLR 2018)
    any other           the test images of that data set or folder (`data.load_test`), `count` of them drawn without
                        replacement, or all where there are fewer; resized bilinearly, with antialiasing where they
                        shrink, colour made grey by its luminance, grey repeated in every channel (our choices)
    ==================  ===========================================================================================

    Where the images of `like` are files that are brought to one size, so are those of a folder, in the same way.

    Args:
        name: of the distribution, from the table.
        like: a split of the data set that it is compared with.
        count: at most so many images.
        root: where downloads are kept.
        seed: of the draws.

    Returns:
        A split whose labels are all -1.

    Raises:
        TypeError: a name that is not a string.
        ValueError: a name or a count that cannot be.
        FileNotFoundError: a path or an archive that is not there.

    >>> from mmlib.experiments.data import load
    >>> load_ood_images("uniform", load("digits").test, 100).images.shape
    torch.Size([100, 1, 8, 8])
    """
    check_int(1, count=count)
    if not isinstance(name, str):
        raise TypeError(f"the name of an out-of-distribution set must be a string, got {name!r}")
    rng = np.random.default_rng(seed)
    _, channels, *size = like.images.shape
    if name in ("uniform", "gaussian"):
        images = torch.empty(count, *size, channels, dtype=torch.uint8)
        for block in images.split(IMAGES_PER_BLOCK):
            shape = tuple(block.shape)
            noise = rng.random(shape, np.float32) if name == "uniform" else rng.standard_normal(shape, np.float32) + 0.5
            block.copy_(_to_bytes(torch.from_numpy(noise)))
    else:
        source = load_test(name, root=root, size=None if isinstance(like.images, Tensor) else size[0]).images
        chosen = source[torch.from_numpy(rng.permutation(len(source))[:count])]
        images = torch.empty(len(chosen), *size, channels, dtype=torch.uint8)
        for block, pixels in zip(images.split(IMAGES_PER_BLOCK), chosen.split(IMAGES_PER_BLOCK)):
            block.copy_(_to_bytes(resize(pixels / 255, channels, size)).permute(0, 2, 3, 1))
    return Split(images.permute(0, 3, 1, 2), torch.full((len(images),), -1))


def resize(images: Float[Tensor, "n channels h w"], channels: int, size: Sequence[int]) -> Float[Tensor, "n _ _ _"]:
    """Images of 1 or 3 channels in 1 or 3 `channels` and in `size`, (height, width)."""
    if images.shape[1] > channels:
        images = torch.einsum("nchw,c->nhw", images, torch.tensor(GREY)).unsqueeze(1)
    images = images.expand(-1, channels, -1, -1)
    return F.interpolate(images, size, mode="bilinear", antialias=True)


def _to_bytes(values: Tensor) -> Tensor:
    """Values in [0, 1] as 0..255, with values outside clipped."""
    return values.clamp(0, 1).mul(255).round().byte()
