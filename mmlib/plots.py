"""Pictures: records or tensors in, figure out."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

INK, ACCENT = "#3b3b3b", "#1f77b4"


def image_row(images: Tensor, titles: Sequence[str] = (), *, height: float = 1.4) -> Figure:
    """Images (k, channels, h, w), bytes or in [0, 1], side by side."""
    pictures = images.permute(0, 2, 3, 1).cpu().numpy()
    figure, axes = plt.subplots(1, len(pictures), figsize=(height * len(pictures), height + 0.3), squeeze=False)
    for i, (axis, picture) in enumerate(zip(axes[0], pictures)):
        axis.imshow(picture, cmap="gray" if picture.shape[-1] == 1 else None, interpolation="nearest")
        axis.set_axis_off()
        if i < len(titles):
            axis.set_title(titles[i], fontsize=9)
    figure.tight_layout()
    return figure


def training_curves(history: list[dict]) -> Figure:
    """Loss by epoch, and validation accuracy where it was looked at."""
    epochs = [row["epoch"] for row in history]
    looks = [row for row in history if row["validation_accuracy"] is not None]
    figure, axes = plt.subplots(1, 2 if looks else 1, figsize=(8 if looks else 4, 2.8), squeeze=False)
    axes[0, 0].plot(epochs, [row["loss"] for row in history], color=INK, lw=1)
    axes[0, 0].set(xlabel="epoch", ylabel="training loss (nats)")
    if looks:
        accuracies = [row["validation_accuracy"] for row in looks]
        axes[0, 1].plot([row["epoch"] for row in looks], accuracies, "o-", color=ACCENT, ms=3)
        axes[0, 1].set(xlabel="epoch", ylabel="validation accuracy (%)")
    figure.tight_layout()
    return figure


def confusion_matrix(confusion: Tensor, class_names: Sequence[str]) -> Figure:
    """Counts of true class (row) by predicted class (column)."""
    c = len(class_names)
    figure, axis = plt.subplots(figsize=(1.5 + 0.4 * c, 1 + 0.38 * c))
    axis.imshow(confusion.double() / confusion.sum(1, keepdim=True), cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(c, c):
        if confusion[i, j]:
            colour = "white" if confusion[i, j] > confusion[i].sum() / 2 else INK
            axis.text(j, i, int(confusion[i, j]), ha="center", va="center", fontsize=7, color=colour)
    axis.set_xticks(range(c), class_names, rotation=90)
    axis.set_yticks(range(c), class_names)
    axis.set(xlabel="predicted class", ylabel="true class")
    figure.tight_layout()
    return figure


def reliability(logits: Tensor, labels: Tensor, bins: int = 15) -> Figure:
    """Accuracy against confidence in equal bins of confidence; a calibrated classifier lies on the diagonal."""
    confidence, prediction = logits.double().softmax(dim=1).max(dim=1)
    right = (prediction == labels).double()
    bin_of = (confidence * bins).ceil().long().clamp(1, bins) - 1
    figure, axis = plt.subplots(figsize=(3.4, 3.2))
    axis.plot([0, 1], [0, 1], color="0.7", lw=1, ls="--")
    for k in bin_of.unique():
        here = bin_of == k
        axis.scatter(
            confidence[here].mean(), right[here].mean(), s=4 + 300 * here.double().mean(), color=ACCENT, alpha=0.7
        )
    axis.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    figure.tight_layout()
    return figure
