"""Out-of-distribution detection: scores of logits, how well they tell two sets apart, and sets to tell apart."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib._checks import check_int
from mmlib._typing import Float
from mmlib.experiments.data.sources import load_test
from mmlib.experiments.data.split import Split

GREY = (0.299, 0.587, 0.114)  # luminance of red, green, blue: ITU-R BT.601, Pillow's mode L


def maximum_softmax(logits: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """Probability of the most probable class, in double precision; higher is more in-distribution.

    Source: Hendrycks & Gimpel (ICLR 2017).

    >>> maximum_softmax(torch.zeros(1, 4))
    tensor([0.2500], dtype=torch.float64)
    """
    return logits.double().softmax(dim=1).amax(dim=1)


def energy(logits: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """Negative free energy, log Σ exp of the logits, in double precision; higher is more in-distribution.

    Source: Liu et al. (NeurIPS 2020), equation 3 with its sign turned, temperature 1.

    >>> energy(torch.zeros(1, 1))
    tensor([0.], dtype=torch.float64)
    """
    return logits.double().logsumexp(dim=1)


def detection(scores_in: Float[Tensor, " n"], scores_out: Float[Tensor, " k"]) -> dict[str, float]:
    """How well a threshold on the scores tells images in the distribution from others, in percent.

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
        ValueError: no scores, or scores that are not numbers.

    Source: Liang et al. (ICLR 2018), section 4; the detection accuracy is that of Lee et al. (NeurIPS 2018).

    >>> detection(torch.tensor([0.9, 0.8]), torch.tensor([0.1, 0.2]))
    {'accuracy': 100.0, 'auroc': 100.0, 'aupr_in': 100.0, 'aupr_out': 100.0, 'fpr95': 0.0}
    """
    for name, scores in (("scores_in", scores_in), ("scores_out", scores_out)):
        if not len(scores) or scores.isnan().any():
            nans = int(scores.isnan().sum())
            raise ValueError(f"{name} hold {len(scores)} scores, {nans} of them NaN; they take one or more, no NaN")
    thresholds, place = torch.cat([scores_in.double(), scores_out.double()]).unique(return_inverse=True)
    # How many of each set have every one of the distinct scores, from the highest to the lowest.
    n, steps = len(scores_in), len(thresholds)
    inside, outside = (torch.bincount(of_set, minlength=steps).flip(0) for of_set in (place[:n], place[n:]))
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
    """From counts at every threshold, the strictest first; where nothing is accepted yet, precision is 1."""
    right, wrong = positive.cumsum(0).double(), negative.cumsum(0).double()
    precision, recall = right / (right + wrong), right / right[-1]
    return torch.trapezoid(F.pad(precision, (1, 0), value=1.0), F.pad(recall, (1, 0)))


def load_ood_images(name: str, like: Split, count: int, *, root: str | Path = "data", seed: int = 0) -> Split:
    """Images of another distribution, in the channels and the size of `like`.

    ==================  ===========================================================================================
    uniform             every value drawn uniformly from [0, 1] (Liang et al., ICLR 2018)
    gaussian            every value drawn from N(0.5, 1) and clipped to [0, 1] (Liang et al., ICLR 2018)
    any other           the test images of that data set or folder (`data.load_test`), `count` of them drawn without
                        replacement, or all where there are fewer; resized bilinearly, with antialiasing where they
                        shrink, colour made grey by its luminance, grey repeated in every channel (our choices)
    ==================  ===========================================================================================

    Args:
        root: where downloads are kept.
        seed: of what is drawn.

    Returns:
        A split whose labels are all -1.

    Raises:
        ValueError: a name or a count that cannot be.
        FileNotFoundError: a path or an archive that is not there.

    >>> from mmlib.experiments.data import load
    >>> load_ood_images("uniform", load("digits").test, 100).images.shape
    torch.Size([100, 1, 8, 8])
    """
    check_int(1, count=count)
    rng = np.random.default_rng(seed)
    _, channels, *size = like.images.shape
    if name in ("uniform", "gaussian"):
        shape = count, *size, channels
        drawn = rng.random(shape, np.float32) if name == "uniform" else rng.standard_normal(shape, np.float32) + 0.5
        images = torch.from_numpy(drawn).permute(0, 3, 1, 2)
    else:
        images = load_test(name, root=root).images
        images = resize(images[rng.permutation(len(images))[:count]] / 255, channels, size)
    images = images.clamp(0, 1).mul(255).round().byte()
    return Split(images, torch.full((len(images),), -1))


def resize(images: Float[Tensor, "n channels h w"], channels: int, size: Sequence[int]) -> Float[Tensor, "n _ _ _"]:
    """Images of 1 or 3 channels in 1 or 3 `channels` and in `size`, (height, width)."""
    if images.shape[1] > channels:
        images = torch.einsum("nchw,c->nhw", images, torch.tensor(GREY)).unsqueeze(1)
    images = images.expand(-1, channels, -1, -1)
    return F.interpolate(images, size, mode="bilinear", antialias=True)
