"""MultiMix in a Lightning module, on digits: python examples/lightning_module.py."""

import argparse

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from mmlib import MultiMixLoss, MultiMixRecipe


class Classification(L.LightningModule):
    """A network that is trained on mixtures only, of embeddings or of images, and validated on clean images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.recipe = network, MultiMixRecipe(MultiMixLoss(num_mixtures=1000))

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        images, labels = batch
        return self.recipe(self.network, images, labels)  # was: F.cross_entropy(self.network(images), labels)

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        images, labels = batch
        # Lightning puts the recipe into evaluation mode, where it is plain cross-entropy.
        self.log("cross_entropy", self.recipe(self.network, images, labels), batch_size=len(images))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def main(epochs: int = 10) -> tuple[float, float]:
    """Return the cross-entropy of clean test images before and after training."""
    L.seed_everything(0, verbose=False)
    digits = load_digits()
    examples = TensorDataset(torch.tensor(digits.images / 16).float(), torch.tensor(digits.target))
    train, test = (DataLoader(part, batch_size=50, shuffle=True) for part in random_split(examples, [0.8, 0.2]))
    module = Classification(nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)))
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    before = trainer.validate(module, test, verbose=False)[0]["cross_entropy"]
    trainer.fit(module, train)
    after = trainer.validate(module, test, verbose=False)[0]["cross_entropy"]
    print(f"cross-entropy of clean test images: {before:.4f} -> {after:.4f}")
    return before, after


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    main(parser.parse_args().epochs)
