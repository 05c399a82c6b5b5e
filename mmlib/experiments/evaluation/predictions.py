"""Embeddings and logits of a split."""

from typing import NamedTuple

import torch
from torch import Tensor

from mmlib._typing import Float
from mmlib.experiments.data.split import Split
from mmlib.experiments.models.classifier import Classifier, eval_mode


class Predictions(NamedTuple):
    """What a classifier makes of a split."""

    embeddings: Float[Tensor, "n d"]
    logits: Float[Tensor, "n c"]


@torch.no_grad()
def predict(classifier: Classifier, split: Split, batch_size: int = 500) -> Predictions:
    """Embeddings and logits of every image of a split, in evaluation mode, on the CPU."""
    like = next(classifier.parameters())
    with eval_mode(classifier):
        parts = [classifier.embed(x.to(like.device).to(like.dtype) / 255) for x in split.images.split(batch_size)]
        embeddings = torch.cat(parts)
        return Predictions(embeddings.cpu(), classifier.head(embeddings).cpu())
