"""MultiMix in a plain PyTorch loop, on the digits that come with scikit-learn: python examples/plain.py."""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from mmlib import MultiMixLoss, MultiMixRecipe


def train_step(
    model: nn.Module, recipe: MultiMixRecipe, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> Tensor:
    """Take one step on one mini-batch and return its loss."""
    loss = recipe(model, images, labels)  # was: F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def main(epochs: int = 10) -> float:
    """Train a small network and return its test accuracy in percent."""
    torch.manual_seed(0)
    digits = load_digits()
    examples = TensorDataset(torch.tensor(digits.images / 16).float(), torch.tensor(digits.target))
    train, test = random_split(examples, [0.8, 0.2])
    loader = DataLoader(train, batch_size=50, shuffle=True, drop_last=True)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    recipe = MultiMixRecipe(MultiMixLoss(num_mixtures=1000))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(epochs):
        losses = [train_step(model, recipe, optimizer, images, labels) for images, labels in loader]
        print(f"epoch {epoch}: loss {torch.stack(losses).mean():.4f}")
    images, labels = next(iter(DataLoader(test, batch_size=len(test))))
    accuracy = 100 * (model(images).argmax(dim=1) == labels).float().mean().item()
    print(f"test accuracy {accuracy:.1f} %")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    main(parser.parse_args().epochs)
