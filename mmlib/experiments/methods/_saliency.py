"""Saliency of images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib._typing import Float, Images, Labels
from mmlib.experiments.models.classifier import eval_mode

Saliency, Blocks = Float[Tensor, "m size size"], Float[Tensor, "m blocks blocks"]


def saliency_map(classifier: nn.Module, images: Images, labels: Labels) -> Saliency:
    """Norm over channels of the gradient of the cross-entropy, in evaluation mode, by the normalised image's pixels."""
    inputs = classifier.normalise(images).requires_grad_()
    with eval_mode(classifier):
        loss = F.cross_entropy(classifier.classify(classifier.encoder(inputs)), labels)
        (gradient,) = torch.autograd.grad(loss, inputs)
    return gradient.norm(dim=1)


def pool_saliency(saliency: Saliency, blocks: int) -> Blocks:
    """Saliency of blocks, summing to 1 over an image; where it is zero everywhere all blocks get the same."""
    pooled = F.avg_pool2d(saliency, saliency.shape[-1] // blocks).clamp(min=1e-20)
    return pooled / pooled.sum(dim=(1, 2), keepdim=True)
