"""MultiMix and Dense MultiMix in the training step of timm models, on digits: python examples/timm_step.py."""

import timm
import torch
from torch import Tensor, nn

from mmlib import DenseMultiMixLoss, MultiMixLoss
from mmlib.experiments import data

RESNET = {"model_name": "resnet10t", "channels": (8, 16, 32, 64), "stem_width": 8, "output_stride": 8}
VIT = {"model_name": "vit_tiny_patch16_224", "img_size": 32, "patch_size": 8, "embed_dim": 32, "num_heads": 2}
VIT |= {"depth": 2, "global_pool": "avg", "fc_norm": False}  # logits are those of the mean patch token


def features_and_head(model: nn.Module, images: Tensor) -> tuple[Tensor, nn.Module]:
    """What Dense MultiMix takes: a feature map (m, d, h, w) or patch tokens (m, d, r), and the linear head."""
    features = model.forward_features(images)
    if features.ndim == 3:  # tokens of a ViT, (m, 1 + r, d): the class token has no position
        features = features[:, model.num_prefix_tokens :].mT
    return features, model.get_classifier()


def train_step(model: nn.Module, criterion: nn.Module, optimizer: torch.optim.Optimizer, *batch: Tensor) -> float:
    """One step on one mini-batch, images and labels; its loss."""
    images, labels = batch
    dense = isinstance(criterion, DenseMultiMixLoss)
    loss = criterion(*(features_and_head(model, images) if dense else [model(images)]), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def main(steps: int = 20) -> list[list[float]]:
    """The losses of a ResNet by its logits and by its feature map, and of a ViT by its patch tokens."""
    digits, runs = data.load("digits").train, []
    images, labels = nn.functional.interpolate(digits.images / 255, scale_factor=4), digits.labels
    for kind, criterion_type in ((RESNET, MultiMixLoss), (RESNET, DenseMultiMixLoss), (VIT, DenseMultiMixLoss)):
        torch.manual_seed(0)
        model = timm.create_model(**kind, in_chans=1, num_classes=10).train()
        criterion = criterion_type(num_mixtures=1000, alpha_is_total=True)  # was: nn.CrossEntropyLoss()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        batches = (torch.randperm(len(labels))[:50] for _ in range(steps))
        runs.append([train_step(model, criterion, optimizer, images[i], labels[i]) for i in batches])
        print(f"{kind['model_name']}, {criterion}: loss {runs[-1][0]:.4f} -> {runs[-1][-1]:.4f}")
    return runs


if __name__ == "__main__":
    main()
