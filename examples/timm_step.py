"""MultiMix and Dense MultiMix in the training step of timm's models, on digits: python examples/timm_step.py."""

import argparse
from collections.abc import Callable

import timm
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from mmlib import DenseMultiMixLoss, MultiMixLoss, MultiMixRecipe

RESNET = {"model_name": "resnet10t", "channels": (8, 16, 32, 64), "stem_width": 8, "output_stride": 8}
VIT = {"model_name": "vit_tiny_patch16_224", "img_size": 32, "patch_size": 8, "embed_dim": 32, "num_heads": 2}
VIT |= {"depth": 2, "global_pool": "avg", "fc_norm": False}  # it predicts from the mean patch token


def loss_from_logits(recipe: MultiMixRecipe, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of MultiMix, for any model."""
    return recipe(model, images, labels)


def loss_from_maps(recipe: MultiMixRecipe, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of Dense MultiMix for a CNN: features are a map, (m, d, h, w)."""
    return recipe(model, images, labels, features=model.forward_features, head=model.get_classifier())


def loss_from_tokens(recipe: MultiMixRecipe, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of Dense MultiMix for a ViT: features are its patch tokens, (m, r, d)."""

    def patch_tokens(images: Tensor) -> Tensor:
        return model.forward_features(images)[:, model.num_prefix_tokens :]

    return recipe(model, images, labels, features=patch_tokens, head=model.get_classifier())


def train_step(
    loss_function: Callable[..., Tensor],
    recipe: MultiMixRecipe,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
) -> float:
    """Take one step on one mini-batch and return its loss."""
    loss = loss_function(recipe, model, images, labels)  # was: criterion(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


CASES = (
    (RESNET, MultiMixLoss(alpha_is_total=True), loss_from_logits),
    (RESNET, DenseMultiMixLoss(alpha_is_total=True), loss_from_maps),
    (VIT, DenseMultiMixLoss(alpha_is_total=True, layout="channels_last"), loss_from_tokens),
)


def main(steps: int = 20) -> list[list[float]]:
    """Train a ResNet by its logits and by its feature maps, and a ViT by its patch tokens; return their losses."""
    digits, runs = load_digits(), []
    images, labels = torch.tensor(digits.images / 16).float().unsqueeze(1), torch.tensor(digits.target)
    images = nn.functional.interpolate(images, scale_factor=4)
    for network, criterion, loss_function in CASES:
        torch.manual_seed(0)
        model = timm.create_model(**network, in_chans=1, num_classes=10).train()
        recipe = MultiMixRecipe(criterion)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        batches = (torch.randperm(len(labels))[:50] for _ in range(steps))
        runs.append([train_step(loss_function, recipe, model, optimizer, images[i], labels[i]) for i in batches])
        print(f"{network['model_name']}, {criterion}: loss {runs[-1][0]:.4f} -> {runs[-1][-1]:.4f}")
    return runs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    main(parser.parse_args().steps)
