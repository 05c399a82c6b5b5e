"""Pictures: records or tensors in, figure out."""

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from PIL import Image
from scipy.spatial import ConvexHull
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


def reliability(panels: Mapping[str, Tensor]) -> Figure:
    """Accuracy against confidence, a panel a name; a calibrated classifier lies on the diagonal.

    Args:
        panels: rows of `metrics.reliability`, (3, bins). A dot's size is the bin's share of the predictions.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(0.6 + 2.6 * len(panels), 3.1), sharex=True, sharey=True, squeeze=False
    )
    for axis, (name, bins) in zip(axes[0], panels.items()):
        count, confidence, right = bins[:, bins[0] > 0]
        axis.plot([0, 1], [0, 1], color="0.7", lw=1, ls="--")
        sizes = 4 + 300 * count / count.sum()
        axis.scatter(confidence / count, right / count, s=sizes, color=ACCENT, alpha=0.7, clip_on=False, zorder=3)
        axis.set_title(name, fontsize=10)
        axis.set(xlabel="confidence", ylabel="" if axis is not axes[0, 0] else "accuracy", xlim=(0, 1), ylim=(0, 1))
        axis.set_aspect("equal")
    figure.tight_layout()
    return figure


SERIES = ("#1f77b4", "#d95f02", "#1b9e77", "#7570b3", "#e7298a")  # in the order of the legend


def simplex(samples: Mapping[str, Tensor]) -> Figure:
    """Points (k, 3) of the 2-simplex in barycentric coordinates, a triangle for each name."""
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])
    figure, axes = plt.subplots(1, len(samples), figsize=(2 * len(samples), 2.1), squeeze=False)
    for axis, (name, weights) in zip(axes[0], samples.items()):
        axis.fill(*corners.T, facecolor="0.96", edgecolor=INK, lw=0.8, zorder=0)
        axis.scatter(*(weights.cpu().numpy() @ corners).T, s=4, color=ACCENT, alpha=0.5, lw=0)
        axis.set_title(name, fontsize=10)
        axis.set_aspect("equal")
        axis.set_axis_off()
    figure.tight_layout()
    return figure


def hulls(panels: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """Examples (m, 2) with their convex hull, and mixtures of them (n, 2), on common axes."""
    columns = (len(panels) + 1) // 2
    figure, axes = plt.subplots(
        2, columns, figsize=(7.4, 6.6), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (name, (examples, mixtures)) in zip(axes.flat, panels.items()):
        outline = examples[ConvexHull(examples).vertices]
        axis.fill(*outline.T, facecolor="0.96", edgecolor="0.6", lw=0.8, zorder=0)
        axis.scatter(*mixtures.T, s=4, color=ACCENT, alpha=0.5, lw=0, label="mixtures")
        axis.scatter(*examples.T, s=16, color=SERIES[1], edgecolor="white", lw=0.4, label="examples")
        axis.set_title(name, fontsize=10)
        axis.set(xticks=[], yticks=[], aspect="equal")
    axes.flat[0].legend(frameon=False, fontsize=8, loc="upper right")
    figure.supxlabel("first principal direction", fontsize=10)
    figure.supylabel("second principal direction", fontsize=10)
    return figure


def curves(
    axis: Axes,
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    ylabel: str,
    log: bool = False,
) -> None:
    """One line a name over a logarithmic x with its own values as ticks; y too is logarithmic where asked."""
    for colour, (name, values) in zip(SERIES, series.items()):
        axis.plot(x, values, "o-", color=colour, ms=4, lw=1.5, label=name)
    axis.set_xscale("log")
    axis.set_xticks(x, [f"{value:g}" for value in x], fontsize=8)
    if log:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.minorticks_off()
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)


def attention(
    images: Tensor, maps: Mapping[str, Tensor], titles: Sequence[str] = (), *, per_image: bool = True
) -> Figure:
    """Images (k, channels, h, w) in [0, 1], and under each its maps (k, r) over a square of positions.

    Every map has its own scale, from zero to its largest value, or all maps of one row share theirs.
    """
    pictures, side = images.permute(0, 2, 3, 1).cpu(), round(next(iter(maps.values())).shape[1] ** 0.5)
    figure, axes = plt.subplots(
        1 + len(maps), len(images), figsize=(len(images), 1.05 * (1 + len(maps))), squeeze=False
    )
    for i, picture in enumerate(pictures):
        axes[0, i].imshow(picture, cmap="gray" if picture.shape[-1] == 1 else None, interpolation="nearest")
        if i < len(titles):
            axes[0, i].set_title(titles[i], fontsize=9)
        for axis, values in zip(axes[1:, i], maps.values()):
            top = values[i].max() if per_image else values.max()
            axis.imshow(values[i].view(side, side).cpu(), cmap="magma", vmin=0, vmax=top, interpolation="nearest")
    for axis, name in zip(axes[:, 0], ("image", *maps)):
        axis.set_ylabel(name, fontsize=9)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    figure.tight_layout(pad=0.4)
    return figure


def position_map(axis: Axes, values: Tensor, title: str) -> None:
    """One number for every position of a feature map (h, w), written into it."""
    middle = (values.min() + values.max()) / 2
    axis.imshow(values, cmap="magma", vmin=values.min() / 2)
    for i, j in np.ndindex(*values.shape):
        colour = "white" if values[i, j] < middle else "black"
        axis.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axis.set_title(title, fontsize=10)
    axis.set(xticks=[], yticks=[])


def scatter_panels(layouts: dict[str, np.ndarray], labels: np.ndarray, columns: int = 3) -> Figure:
    """One panel a variant: its embeddings' places in the plane, coloured by class."""
    rows = -(-len(layouts) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.9 * columns, 2.9 * rows), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (name, points) in zip(axes.flat, layouts.items()):
        dots = axis.scatter(*points.T, c=labels, cmap="tab10", s=5, lw=0)
        axis.set_title(name, fontsize=10)
    figure.tight_layout(rect=(0, 0, 0.92, 1))
    figure.legend(*dots.legend_elements(num=None), title="class", loc="center right", frameon=False)
    return figure


def scatter_of_images(
    layout: np.ndarray, labels: np.ndarray, images: Tensor, class_names: Sequence[str], *, name: str
) -> str:
    """Dots that show their image and class while the pointer is on them: HTML that needs no script and no server.

    Args:
        layout: (n, 2).
        labels: (n,).
        images: bytes, (n, channels, size, size).
        name: a word, unlike that of any other such picture on the page.
    """
    n, channels, size, _ = images.shape
    across = math.ceil(math.sqrt(n))
    sheet = torch.zeros(across * across, channels, size, size, dtype=torch.uint8)
    sheet[:n] = images
    sheet = sheet.view(across, across, channels, size, size).permute(0, 3, 1, 4, 2).reshape(across * size, -1, channels)
    buffer = io.BytesIO()
    Image.fromarray(sheet.squeeze(2).numpy()).save(buffer, "png", optimize=True)
    low, high = layout.min(axis=0), layout.max(axis=0)
    places = (layout - low) / (high - low) * (560, 400) + 10
    colours = [f"#{int(r * 255):02x}{int(g * 255):02x}{int(b * 255):02x}" for r, g, b in sns.color_palette("tab10")]
    dots = []
    for k, ((x, y), label) in enumerate(zip(places, labels.tolist())):
        corner = f"{k % across * size} {k // across * size} {size} {size}"
        dots.append(
            f'<g><circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colours[label % 10]}"/><svg x="590" y="40" width="110" '
            f'height="110" viewBox="{corner}"><use href="#{name}"/></svg><text x="590" y="30">'
            f"{html.escape(class_names[label])}</text></g>"
        )
    hidden, shown = (",".join(f".image-dots g{state}>{tag}" for tag in ("svg", "text")) for state in ("", ":hover"))
    style = f"{hidden}{{display:none}}{shown}{{display:inline}}"
    png = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<svg class="image-dots" viewBox="0 0 720 420" style="width:100%;background:white" font-size="16">'
        f'<style>{style}</style><defs><image id="{name}" width="{across * size}" height="{across * size}" '
        f'style="image-rendering:pixelated" href="data:image/png;base64,{png}"/></defs>{"".join(dots)}</svg>'
    )


def seeds_by_variant(numbers: pd.DataFrame, column: str, title: str) -> Figure:
    """One panel a data set: every seed's number by variant, with mean and standard deviation."""
    datasets = numbers["dataset"].unique()
    figure, axes = plt.subplots(1, len(datasets), figsize=(4.6 * len(datasets), 2.9), sharey=True, squeeze=False)
    for axis, dataset in zip(axes[0], datasets):
        here = numbers[numbers["dataset"] == dataset]
        sns.stripplot(here, x=column, y="variant", color="0.65", size=4, jitter=False, ax=axis)
        sns.pointplot(here, x=column, y="variant", errorbar="sd", color=ACCENT, ls="none", markersize=5, ax=axis)
        axis.set(title=dataset, xlabel=title, ylabel="")
    figure.tight_layout()
    return figure


def alignment_uniformity(numbers: pd.DataFrame) -> Figure:
    """Every run by uniformity and alignment, the lower left being better in both."""
    figure, axis = plt.subplots(figsize=(6.4, 3.4))
    sns.scatterplot(numbers, x="uniformity", y="alignment", hue="variant", style="variant", s=60, ax=axis)
    sns.move_legend(axis, "center left", bbox_to_anchor=(1, 0.5), title=None, frameon=False)
    figure.tight_layout()
    return figure


def pair_distances(embeddings: dict[str, dict[str, np.ndarray]], columns: int = 3) -> Figure:
    """One panel a variant: distances on the unit sphere between embeddings of the same class and of different ones."""
    rows = -(-len(embeddings) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.9 * columns, 2.1 * rows), sharex=True, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (name, kept) in zip(axes.flat, embeddings.items()):
        unit = kept["embeddings"].astype(float)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        first, second = np.triu_indices(len(unit), k=1)
        distances = np.sqrt(np.maximum(2 - 2 * (unit @ unit.T)[first, second], 0))
        same = kept["labels"][first] == kept["labels"][second]
        for pairs, colour, label in ((same, ACCENT, "same class"), (~same, "0.6", "different classes")):
            axis.hist(distances[pairs], bins=60, range=(0, 2), density=True, color=colour, alpha=0.6, label=label)
        axis.set_axis_on()
        axis.set(title=name, yticks=[], xlabel="distance" if axis in axes[-1] else "")
    axes[0, 0].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    return figure


def histograms(panels: Mapping[str, Mapping[str, Tensor]], *, xlabel: str, upto: float, bins: int = 40) -> Figure:
    """A panel a name, in each a histogram a name, from 0 to `upto`."""
    figure, axes = plt.subplots(1, len(panels), figsize=(9, 2.6), sharex=True, squeeze=False)
    for axis, (title, series) in zip(axes[0], panels.items()):
        for colour, (name, values) in zip(SERIES, series.items()):
            axis.hist(values.tolist(), bins, (0, upto), density=True, color=colour, alpha=0.6, label=name)
        axis.set_title(title, fontsize=10)
        axis.set(xlabel=xlabel, yticks=[])
        axis.spines[["top", "right", "left"]].set_visible(False)
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def lines(axis: Axes, x: Sequence[float] | Tensor, series: Mapping[str, Sequence[float] | Tensor], **labels) -> None:
    """One line a name; those whose name begins with `label` or `linear` are dashed. `labels` go to the axis."""
    for colour, (name, values) in zip(SERIES, series.items()):
        dashed = name.startswith(("label", "linear"))
        axis.plot(x, values, color=INK if dashed else colour, ls="--" if dashed else "-", lw=1.5, label=name)
    axis.set(**labels)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)


def student_and_teacher(
    decays: Tensor, lengths: Mapping[str, Sequence[float]], accuracies: Mapping[str, Sequence[float]]
) -> Figure:
    """The decay by step, how far each moved at every step, and how good each was after every epoch."""
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.8))
    axes[0].plot(range(1, len(decays) + 1), decays, color=INK)
    axes[0].set(xscale="log", ylim=(0, 1.05), xlabel="step t", ylabel="decay")
    axes[0].spines[["top", "right"]].set_visible(False)
    steps, epochs = (range(1, len(next(iter(values.values()))) + 1) for values in (lengths, accuracies))
    lines(axes[1], steps, lengths, ylim=(0, None), xlabel="step t", ylabel="length of the step")
    lines(axes[2], epochs, accuracies, ylim=(0, None), xlabel="epoch", ylabel="validation accuracy (%)")
    axes[2].xaxis.get_major_locator().set_params(integer=True)
    figure.tight_layout()
    return figure


def segments(t: Tensor, panels: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """Predictions (k, steps) along k segments, and beside them what linear targets (steps,) ask for."""
    figure, axes = plt.subplots(1, len(panels), figsize=(8, 3), sharex=True, sharey=True, squeeze=False)
    for axis, (name, (predictions, target)) in zip(axes[0], panels.items()):
        axis.plot(t, predictions.T, color=ACCENT, lw=0.6, alpha=0.5)
        xlabel = "t, from the first example to the second"
        lines(axis, t, {"linear target": target}, ylim=(-0.03, 1.2), yticks=[0, 0.5, 1], xlabel=xlabel, ylabel=name)
        axis.legend(frameon=False, loc="upper left")
    figure.tight_layout()
    return figure


def confidence_by_position(attention: Tensor, right: Tensor, fifths: Sequence[Tensor]) -> Figure:
    """Attention (n, r) and right predictions (n, r): their means by position, and the second by fifths of the first."""
    figure, axes = plt.subplots(1, 3, figsize=(8, 2.5), width_ratios=(1, 1, 1.3))
    side = round(attention.shape[1] ** 0.5)
    position_map(axes[0], attention.mean(0).view(side, side), "mean attention")
    position_map(axes[1], right.mean(0).view(side, side), "share classified right")
    axes[2].bar(range(1, 6), [right.flatten()[fifth].mean() * 100 for fifth in fifths], color=ACCENT)
    axes[2].set(xlabel="positions by attention, in fifths", ylabel="classified right (%)")
    axes[2].spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def growth(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Time and extra memory against n, for each formula {n: {"seconds": ..., "mib": ...}}."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.2))
    for i, (name, by_n) in enumerate(rows.items()):
        ns = [int(n) for n in by_n]
        for axis, key in zip(axes, ("seconds", "mib")):
            style = {"color": SERIES[i // 2], "ls": "-" if i % 2 == 0 else "--", "marker": "o", "ms": 3}
            axis.plot(ns, [row[key] for row in by_n.values()], label=name, **style)
    axes[0].set(xscale="log", yscale="log", xlabel="mixtures n", ylabel="forward and backward (s)")
    axes[1].set(xscale="log", yscale="log", xlabel="mixtures n", ylabel="extra memory (MiB)")
    axes[0].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    return figure


def against(
    axis: Axes, numbers: pd.DataFrame, x: str, y: str, by: str, levels: Mapping[str, float] | None = None, **labels
) -> None:
    """Every run's y against x, with mean and standard deviation over runs, one line for each value of the column `by`.

    Args:
        levels: what does not depend on x, such as a baseline's mean: a dashed line a name.
        labels: go to the axis.
    """
    series = list(numbers.groupby(by, sort=False))
    for colour, (name, rows) in zip(SERIES, series):
        groups = rows.groupby(x)[y]
        axis.scatter(rows[x], rows[y], s=8, color=colour, alpha=0.4, lw=0)
        axis.errorbar(
            groups.mean().index, groups.mean(), groups.std(), fmt="o-", color=colour, ms=4, capsize=3, label=name
        )
    for colour, (name, level) in zip(SERIES[len(series) :], (levels or {}).items()):
        axis.axhline(level, color=colour, ls="--", lw=1.2, label=name)
    axis.set(xlabel=x, ylabel=y, **labels)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
