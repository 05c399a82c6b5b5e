"""Embeddings and logits of a split."""

from typing import NamedTuple

import torch
from torch import Tensor

from mmlib._checks import check_int
from mmlib._typing import Float
from mmlib.experiments.data.split import Split
from mmlib.experiments.models.classifier import Classifier, eval_mode

# Of small images 500 at a time, of larger ones no more pixels: without gradients that is less than training holds.
IMAGES_PER_BATCH, PIXELS_PER_BATCH = 500, 500 * 64 * 64


class Predictions(NamedTuple):
    """Embeddings and logits of the images of a split, in its order and on the CPU."""

    embeddings: Float[Tensor, "n d"]
    logits: Float[Tensor, "n c"]


@torch.no_grad()
def predict(classifier: Classifier, split: Split, batch_size: int | None = None) -> Predictions:
    """Compute embeddings and logits of every image of a split, in evaluation mode.

    Results leave the device batch by batch, which therefore holds those of one batch alone.

    Args:
        classifier: on any device, of any precision.
        split: on any device, or image files.
        batch_size: images at a time; None takes 500, or fewer if they are larger than 64 x 64 pixels.

    >>> from mmlib.experiments import data, models
    >>> digits = data.load("digits")
    >>> embeddings, logits = predict(models.build("preactresnet-small", digits), digits.test)
    >>> embeddings.shape, logits.shape
    (torch.Size([870, 32]), torch.Size([870, 10]))
    """
    n, _, height, width = split.images.shape
    if batch_size is None:
        batch_size = max(1, min(IMAGES_PER_BATCH, PIXELS_PER_BATCH // (height * width)))
    check_int(1, batch_size=batch_size)
    parameter, done = next(classifier.parameters()), 0
    with eval_mode(classifier):
        for pixels in split.images.split(batch_size):
            embeddings = classifier.embed(pixels.to(parameter.device).to(parameter.dtype) / 255)
            batch = Predictions(embeddings, classifier.head(embeddings))
            if not done:
                collected = Predictions(*(torch.empty(n, values.shape[1], dtype=values.dtype) for values in batch))
            for whole, values in zip(collected, batch):
                whole[done : done + len(pixels)] = values
            done += len(pixels)
    return collected
