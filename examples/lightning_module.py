"""MultiMix in a Lightning module, in turn with input mixup as published: python examples/lightning_module.py."""

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2

from mmlib import MultiMixLoss
from mmlib.experiments import data


class Classification(L.LightningModule):
    """A network that is trained on mixtures only: of embeddings or, on about half of the mini-batches, of images."""

    def __init__(self, network: nn.Module, classes: int) -> None:
        super().__init__()
        self.network, self.criterion, self.mixup = (
            network,
            MultiMixLoss(num_mixtures=1000),
            v2.MixUp(num_classes=classes),
        )

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        images, labels = batch
        if torch.rand(()) < 0.5:
            return self.criterion(self.network(images), labels)  # was: F.cross_entropy(...)
        images, targets = self.mixup(images, labels)
        return F.cross_entropy(self.network(images), targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def main(epochs: int = 30) -> tuple[float, float]:
    """The cross-entropy of unmixed test images before and after training."""
    L.seed_everything(0, verbose=False)
    digits = data.load("digits")
    train = TensorDataset(digits.train.images / 255, digits.train.labels)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, digits.classes))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(max_epochs=epochs, accelerator="cpu", enable_checkpointing=False, **quiet)
    images, labels = digits.test.images / 255, digits.test.labels
    before = F.cross_entropy(network(images), labels).item()
    trainer.fit(Classification(network, digits.classes), DataLoader(train, batch_size=50, shuffle=True))
    after = F.cross_entropy(network(images), labels).item()
    print(f"cross-entropy of unmixed test images: {before:.4f} -> {after:.4f}")
    return before, after


if __name__ == "__main__":
    main()
