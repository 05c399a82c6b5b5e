"""MultiMix in a plain PyTorch loop, on the digits that come with scikit-learn: python examples/plain.py."""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mmlib import MultiMixLoss
from mmlib.experiments import data


def train_step(
    model: nn.Module, criterion: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> Tensor:
    """One step on one mini-batch; its loss."""
    loss = criterion(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def main() -> list[float]:
    """Train a small network; the losses of its steps."""
    torch.manual_seed(0)
    digits = data.load("digits")
    train = TensorDataset(digits.train.images / 255, digits.train.labels)
    loader = DataLoader(train, batch_size=50, shuffle=True, drop_last=True)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, digits.classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    criterion = MultiMixLoss(num_mixtures=1000)  # was: nn.CrossEntropyLoss()
    losses = []
    for _ in range(100):
        for images, labels in loader:
            losses.append(train_step(model, criterion, optimizer, images, labels).item())
    correct = model(digits.test.images / 255).argmax(1) == digits.test.labels
    print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f}, test accuracy {100 * correct.double().mean():.1f} %")
    return losses


if __name__ == "__main__":
    main()
