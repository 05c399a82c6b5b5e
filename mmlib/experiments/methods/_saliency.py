"""Saliency of images."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib._typing import Float, Images, Labels
from mmlib.experiments.methods.base import cross_entropy
from mmlib.experiments.models.classifier import ImageClassifier, eval_mode
from mmlib.mixing import accumulation_dtype

Saliency, Blocks = Float[Tensor, "m size size"], Float[Tensor, "m blocks blocks"]


def saliency_map(classifier: ImageClassifier, images: Images, labels: Labels) -> Saliency:
    """Norm over channels of the cross-entropy's gradient by the normalised pixels, in evaluation mode."""
    inputs = classifier.normalise(images).requires_grad_()
    with eval_mode(classifier):
        loss = cross_entropy(classifier.classify(classifier.encoder(inputs)), labels.long())
        (gradient,) = torch.autograd.grad(loss, inputs)
    return gradient_norm(gradient)


def gradient_norm(gradient: Images) -> Saliency:
    """Norm over channels, in single precision at least."""
    return gradient.to(accumulation_dtype(gradient.dtype)).norm(dim=1)


def pool_saliency(saliency: Saliency, blocks: int) -> Blocks:
    """Saliency of blocks, summing to 1 over an image; an image without saliency gives all blocks the same."""
    pooled = F.avg_pool2d(saliency, saliency.shape[-1] // blocks).clamp(min=1e-20)
    return pooled / pooled.sum(dim=(1, 2), keepdim=True)
