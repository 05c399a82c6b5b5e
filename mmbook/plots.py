"""Pictures: records or tensors in, figure out."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist
from torch import Tensor

from mmbook.names import STYLES, in_order, known_method, printed_name, style_of

INK, ACCENT = "#3b3b3b", STYLES["multimix"].colour
# What is not a method, such as values of α: from dark to light, in the order of the legend, each with its marker.
SERIES = ("#440154", "#443a83", "#306a8e", "#23898e", "#22a884")
MARKERS = "osD^v"
LINEAR_POINTS = 2.0  # of a difference, up to which its axis is linear
# The look of every figure. Its ground is white, so that it reads on a dark page too.
LOOK = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.color": INK,
    "xtick.labelsize": 8,
    "ytick.color": INK,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "text.color": INK,
}


def _panels(
    count: int, width: float, height: float, *, columns: int | None = None, **options
) -> tuple[Figure, np.ndarray]:
    """A figure and its panels, so many inches each, in one row or in rows of `columns`; open at the top and right."""
    columns = columns or count
    rows = -(-count // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="tight", **options
    )
    sns.despine(figure)
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    return figure, axes.flat[:count]


def image_row(images: Tensor, titles: Sequence[str] = (), *, height: float = 1.4) -> Figure:
    """Images (k, channels, h, w), bytes or in [0, 1], side by side."""
    figure, axes = _panels(len(images), height, height + 0.3)
    for axis, image in zip(axes, images):
        _picture(axis, image)
        axis.set_axis_off()
    for axis, title in zip(axes, titles):
        axis.set_title(title, fontsize=9)
    return figure


def boxed_row(
    images: Tensor, boxes: Sequence[Sequence], names: Sequence[Sequence[str]], *, height: float = 1.9
) -> Figure:
    """Images (k, 3, h, w) side by side, each with its boxes x0, y0, x1, y1 and a name over each."""
    return boxed_rows(images, {"": (boxes, names)}, height=height)


def boxed_rows(
    images: Tensor, rows: Mapping[str, tuple[Sequence[Sequence], Sequence[Sequence[str]]]], *, height: float = 1.9
) -> Figure:
    """The same images (k, 3, h, w) in every row, with the row's own boxes and their names, and its title at the left.

    Args:
        rows: boxes x0, y0, x1, y1 and names of every image, by the title of the row.
    """
    figure, axes = _panels(len(rows) * len(images), height, height, columns=len(images))
    for start, (title, (boxes, names)) in zip(range(0, len(axes), len(images)), rows.items()):
        for axis, image, of_one, named in zip(axes[start:], images, boxes, names):
            _picture(axis, image)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            side, taken = image.shape[1], []  # taken: the lower left corners of names
            line = side / 16  # as high as a name
            for (x0, y0, x1, y1), name in zip(of_one, named):
                # Pixel centres are whole numbers to imshow.
                axis.add_patch(plt.Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, color="white", lw=1))
                # A name stands over its box, or under it where the picture ends or another name is in the way.
                places = (y0 - 0.4 * line, y1 + line, y0 - 1.4 * line, y1 + 2 * line)
                near = [y for x, y in taken if abs(x - x0) < 6 * line]
                free = (y for y in places if line <= y < side and all(abs(y - other) >= line for other in near))
                taken.append((x0, next(free, places[0])))
                axis.text(x0 - 0.5, taken[-1][1], name, color="white", fontsize=6)
        axes[start].set_ylabel(title)
    return figure


def _picture(axis: Axes, image: Tensor) -> None:
    axis.imshow(image.permute(1, 2, 0).cpu().numpy(), cmap="gray" if len(image) == 1 else None, interpolation="nearest")


def training_curves(history: list[dict]) -> Figure:
    """Loss by epoch, and validation accuracy where it was looked at."""
    columns = {"loss": "training loss (nats)", "validation_accuracy": "validation accuracy (%)"}
    rows = pd.DataFrame(history, dtype=float).set_index("epoch")[[*columns]].dropna(axis=1, how="all")
    figure, axes = _panels(rows.shape[1], 4, 2.8)
    for axis, style, (name, values) in zip(axes, ({"color": INK}, {"color": ACCENT, "marker": "o"}), rows.items()):
        values.dropna().plot(ax=axis, ylabel=columns[name], lw=1, ms=3, **style)
    return figure


def confusion_matrix(confusion: Tensor, class_names: Sequence[str]) -> Figure:
    """Counts of true class (row) by predicted class (column)."""
    c = len(class_names)
    figure, (axis,) = _panels(1, 1.5 + 0.4 * c, 1 + 0.38 * c)
    shares, counts = confusion / confusion.sum(1, keepdim=True), confusion.numpy()
    style = {"annot": np.where(counts, counts, ""), "fmt": "", "annot_kws": {"fontsize": 7}, "cbar": False}
    names = {"xticklabels": class_names, "yticklabels": class_names}
    sns.heatmap(shares, cmap="Blues", vmin=0, vmax=1, ax=axis, **style, **names)
    axis.set(xlabel="predicted class", ylabel="true class")
    axis.tick_params(axis="x", rotation=90)
    return figure


def reliability(panels: Mapping[str, Tensor]) -> Figure:
    """Accuracy against confidence, a panel a name; a calibrated classifier lies on the diagonal.

    Args:
        panels: rows of `metrics.reliability_bins`, (3, bins), by name; a method's printed name has the method's colour.
            A dot's area is the bin's share of the predictions.
    """
    colours = {style.name: style.colour for style in STYLES.values()}
    columns = min(3, len(panels))
    figure, axes = _panels(len(panels), 2.8, 3.1, columns=columns, sharex=True, sharey=True)
    for axis, (name, bins) in zip(axes, panels.items()):
        count, confidence, right = bins[:, bins[0] > 0]
        axis.axline((0, 0), slope=1, color="0.7", lw=1, ls="--")
        areas = 4 + 300 * count / count.sum()
        axis.scatter(
            confidence / count,
            right / count,
            s=areas,
            color=colours.get(name, ACCENT),
            alpha=0.7,
            clip_on=False,
            zorder=3,
        )
        axis.set(title=name, xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axis.label_outer()
    return figure


def simplex(samples: Mapping[str, Tensor]) -> Figure:
    """Points (k, 3) of the 2-simplex in barycentric coordinates, a triangle for each name."""
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])
    figure, axes = _panels(len(samples), 2, 2.1)
    for axis, (name, weights) in zip(axes, samples.items()):
        axis.fill(*corners.T, facecolor="0.96", edgecolor=INK, lw=0.8, zorder=0)
        axis.scatter(*(weights.cpu().numpy() @ corners).T, s=4, color=ACCENT, alpha=0.5, lw=0)
        axis.set_title(name, fontsize=10)
        axis.set_aspect("equal")
        axis.set_axis_off()
    return figure


def hulls(panels: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """Examples (m, 2) with their convex hull, and mixtures of them (n, 2), on common axes."""
    figure, axes = _panels(len(panels), 3.7, 2.8, columns=2, sharex=True, sharey=True)
    for axis, (name, (examples, mixtures)) in zip(axes, panels.items()):
        outline = examples[ConvexHull(examples).vertices]
        axis.fill(*outline.T, facecolor="0.96", edgecolor="0.6", lw=0.8, zorder=0)
        axis.scatter(*mixtures.T, s=4, color=ACCENT, alpha=0.5, lw=0, label="mixtures")
        axis.scatter(*examples.T, s=16, color=INK, edgecolor="white", lw=0.4, label="examples")
        axis.set_title(name, fontsize=10)
        axis.set(xticks=[], yticks=[], aspect="equal")
    axes[1].legend(frameon=False, fontsize=8, loc="upper right")
    figure.supxlabel("first principal direction", fontsize=10)
    figure.supylabel("second principal direction", fontsize=10)
    return figure


def curves(
    axis: Axes, x: Sequence[float], series: Mapping[str, Sequence[float]], *, log: bool = False, **labels: str
) -> None:
    """One line a name over a logarithmic x with its own values as ticks; y too is logarithmic where asked."""
    for style, (name, values) in zip(_series_styles(), series.items()):
        axis.plot(x, values, **style, ms=4, lw=1.5, label=name)
    axis.set_xscale("log")
    axis.set_xticks(x, [f"{value:g}" for value in x], fontsize=8)
    if log:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.minorticks_off()
    _finish(axis, **labels)


def scale_points(line: Axis, *, highest: float = 50) -> None:
    """Make an axis of differences in points linear up to `LINEAR_POINTS`, logarithmic beyond, and mark it with signs.

    A method may be fifty points behind on one schedule and one ahead on another.

    Args:
        line: `xaxis` or `yaxis` of what has been drawn.
        highest: mark, where higher ones would touch.
    """
    set_scale = line.axes.set_xscale if line.axis_name == "x" else line.axes.set_yscale
    set_scale("symlog", linthresh=LINEAR_POINTS, linscale=2)
    low, high = line.get_view_interval()
    marks = sorted({sign * points for points in (0, 1, 2, 5, 10, 20, 50) for sign in (-1, 1)})
    line.set_ticks([points for points in marks if low <= points <= min(high, highest)])
    line.set_major_formatter(lambda points, _: f"{points:+.0f}".replace("-", "−") if points else "0")
    line.set_minor_locator(NullLocator())


def _series_styles(colours: Sequence[str] = SERIES) -> Iterator[dict[str, str]]:
    """Colour and marker of what is not a method, in the order of the legend."""
    return ({"color": colour, "marker": marker} for colour, marker in zip(cycle(colours), cycle(MARKERS)))


def _finish(axis: Axes, **labels) -> None:
    axis.set(**labels)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)


def attention(
    images: Tensor, maps: Mapping[str, Tensor], titles: Sequence[str] = (), *, per_image: bool = True
) -> Figure:
    """Images (k, channels, h, w) in [0, 1], and under each its maps (k, r) over a square of positions.

    Every map has its own scale, from zero to its largest value, or all maps of one row share theirs.
    """
    rows, side = 1 + len(maps), round(next(iter(maps.values())).shape[1] ** 0.5)
    figure, axes = _panels(rows * len(images), 1, 1.05, columns=len(images))
    axes = axes.reshape(rows, -1)
    for axis, image in zip(axes[0], images):
        _picture(axis, image)
    for axis, title in zip(axes[0], titles):
        axis.set_title(title, fontsize=9)
    for row, values in zip(axes[1:], maps.values()):
        for axis, of_image in zip(row, values.cpu()):
            top = of_image.max() if per_image else values.max()
            axis.imshow(of_image.view(side, side), cmap="magma", vmin=0, vmax=top, interpolation="nearest")
    for axis, name in zip(axes[:, 0], ("image", *maps)):
        axis.set_ylabel(name, fontsize=9)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return figure


def position_map(axis: Axes, values: Tensor, title: str) -> None:
    """One number for every position of a feature map (h, w), written into it."""
    style = {"cmap": "magma", "vmin": float(values.min()) / 2, "cbar": False, "square": True}
    sns.heatmap(values, annot=True, fmt=".2f", xticklabels=False, yticklabels=False, ax=axis, **style)
    axis.set_title(title, fontsize=10)


def scatter_panels(layouts: dict[str, np.ndarray], labels: np.ndarray, columns: int = 3) -> Figure:
    """One panel a variant: its embeddings' places in the plane, coloured by class."""
    figure, axes = _panels(len(layouts), 2.9, 2.9, columns=columns)
    figure.set_layout_engine("tight", rect=(0, 0, 0.92, 1))
    for axis, (name, points) in zip(axes, layouts.items()):
        dots = axis.scatter(*points.T, c=labels, cmap="tab10", s=5, lw=0)
        axis.set_title(printed_name(name), fontsize=10)
        axis.set_axis_off()
    figure.legend(*dots.legend_elements(num=None), title="class", loc="center right", frameon=False)
    return figure


def seeds_by_variant(
    numbers: pd.DataFrame, column: str, title: str, *, panel: str = "dataset", names: Mapping[str, str] | None = None
) -> Figure:
    """A row a variant, in the order of `names.in_order`: every seed's number, their mean and standard deviation.

    Args:
        numbers: one row a run, with its `variant`.
        column: what is drawn.
        title: of the horizontal axis.
        panel: the column that has a panel for each of its values.
        names: printed names of variants that are no method's.
    """
    variants = in_order(numbers["variant"])
    size = {"width": 4.2, "height": 1.1 + 0.24 * len(variants)}
    figure, axes = _panels(numbers[panel].nunique(), **size, sharey=True)
    for axis, (value, here) in zip(axes, numbers.groupby(panel, sort=False)):
        for row, variant in enumerate(variants):
            of_seeds, style = here.loc[here["variant"] == variant, column], style_of(variant)
            axis.scatter(of_seeds, [row] * len(of_seeds), s=14, color=style.colour, alpha=0.45, lw=0)
            deviation = of_seeds.std() if len(of_seeds) > 1 else None
            axis.errorbar(of_seeds.mean(), row, xerr=deviation, fmt=style.marker, ms=7, color=style.colour, mec="white")
        axis.set(title=value, xlabel=title)
    axes[0].set_yticks(range(len(variants)), [(names or {}).get(v, printed_name(v)) for v in variants])
    axes[0].set_ylim(len(variants) - 0.5, -0.5)
    return figure


def by_variant(axis: Axes, numbers: pd.DataFrame, x: str, y: str, *, legend: bool = True) -> None:
    """Every run by two of its numbers, in the colour and with the marker of its variant."""
    for variant in in_order(numbers["variant"]):
        rows, (name, colour, marker) = numbers[numbers["variant"] == variant], style_of(variant)
        axis.scatter(rows[x], rows[y], s=45, color=colour, marker=marker, label=name, edgecolor="white", lw=0.4)
    axis.set(xlabel=x, ylabel=y)
    if legend:
        axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def alignment_uniformity(numbers: pd.DataFrame) -> Figure:
    """Every run by uniformity and alignment, the lower left being better in both."""
    figure, (axis,) = _panels(1, 6.4, 3.4)
    by_variant(axis, numbers, "uniformity", "alignment")
    return figure


def pair_distances(embeddings: dict[str, dict[str, np.ndarray]], columns: int = 3) -> Figure:
    """One panel a variant: distances on the unit sphere between embeddings of the same class and of different ones."""
    figure, axes = _panels(len(embeddings), 2.9, 2.1, columns=columns, sharex=True)
    for axis, (name, kept) in zip(axes, embeddings.items()):
        unit, labels = kept["embeddings"].astype(float), kept["labels"]
        distances = pdist(unit / np.linalg.norm(unit, axis=1, keepdims=True))
        same = pdist(labels[:, None]) == 0
        pairs = {"same class": distances[same], "different classes": distances[~same]}
        _histogram(axis, pairs, 60, 2, title=printed_name(name), xlabel="distance")
    axes[-1].legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def histograms(panels: Mapping[str, Mapping[str, Tensor]], *, xlabel: str, upto: float, bins: int = 40) -> Figure:
    """A panel a name, in each a histogram a name, from 0 to `upto`."""
    figure, axes = _panels(len(panels), 9 / len(panels), 2.6, sharex=True)
    for axis, (title, series) in zip(axes, panels.items()):
        _histogram(axis, series, bins, upto, title=title, xlabel=xlabel)
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def _histogram(axis: Axes, series: Mapping[str, Tensor | np.ndarray], bins: int, upto: float, **labels) -> None:
    # The first is filled and the second an outline, so that they are told apart where they overlap.
    for style, (name, values) in zip(
        cycle(({"color": SERIES[-1], "alpha": 0.6}, {"ec": SERIES[0], "fill": False})), series.items()
    ):
        shape = {"density": True, "histtype": "stepfilled", "lw": 1.3}
        axis.hist(np.asarray(values), bins, range=(0, upto), label=name, **shape, **style)
    axis.set(yticks=[], **labels)
    axis.spines["left"].set_visible(False)
    axis.label_outer()


def lines(axis: Axes, x: Sequence[float] | Tensor, series: Mapping[str, Sequence[float] | Tensor], **labels) -> None:
    """One line a name; those whose name begins with `label` or `linear` are dashed. `labels` go to the axis."""
    every = max(1, len(x) // 8)
    for own, (name, values) in zip(_series_styles(), series.items()):
        style = {"color": INK, "ls": "--"} if name.startswith(("label", "linear")) else own | {"markevery": every}
        axis.plot(x, values, **style, ms=4, lw=1.5, label=name)
    _finish(axis, **labels)


def student_and_teacher(
    decays: Tensor, lengths: Mapping[str, Sequence[float]], accuracies: Mapping[str, Sequence[float]]
) -> Figure:
    """The decay by step, how far each moved at every step, and how good each was after every epoch."""
    figure, (left, middle, right) = _panels(3, 3, 2.8)
    left.plot(range(1, len(decays) + 1), decays, color=INK)
    left.set(xscale="log", ylim=(0, 1.05), xlabel="step t", ylabel="decay")
    steps, epochs = (range(1, len(next(iter(values.values()))) + 1) for values in (lengths, accuracies))
    lines(middle, steps, lengths, ylim=(0, None), xlabel="step t", ylabel="length of the step")
    lines(right, epochs, accuracies, ylim=(0, None), xlabel="epoch", ylabel="validation accuracy (%)")
    right.xaxis.get_major_locator().set_params(integer=True)
    return figure


def segments(t: Tensor, panels: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """Predictions (k, steps) along k segments, and beside them what linear targets (steps,) ask for."""
    figure, axes = _panels(len(panels), 4, 3, sharex=True, sharey=True)
    for axis, (name, (predictions, target)) in zip(axes, panels.items()):
        axis.plot(t, predictions.T, color=ACCENT, lw=0.6, alpha=0.5)
        labels = {"xlabel": "t, from the first example to the second", "ylabel": name}
        lines(axis, t, {"linear target": target}, ylim=(-0.03, 1.2), yticks=[0, 0.5, 1], **labels)
    return figure


def confidence_by_position(attention: Tensor, right: Tensor, fifths: Sequence[Tensor]) -> Figure:
    """Attention (n, r) and right predictions (n, r): their means by position, and the second by fifths of the first."""
    figure, (left, middle, bars) = _panels(3, 8 / 3, 2.5, width_ratios=(1, 1, 1.3))
    side = round(attention.shape[1] ** 0.5)
    position_map(left, attention.mean(0).view(side, side), "mean attention")
    position_map(middle, right.mean(0).view(side, side), "share classified right")
    bars.bar(range(1, 6), [right.flatten()[fifth].mean() * 100 for fifth in fifths], color=ACCENT)
    bars.set(xlabel="positions by attention, in fifths", ylabel="classified right (%)")
    return figure


def growth(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Time and extra memory against n, for each formula {n: {"seconds": ..., "mib": ...}}.

    Args:
        rows: by name; one that begins with Dense has Dense MultiMix's colour, one in embedding space is dashed.
    """
    figure, axes = _panels(2, 4.2, 3.2)
    for axis, (key, ylabel) in zip(axes, (("seconds", "forward and backward (s)"), ("mib", "extra memory (MiB)"))):
        for name, by_n in rows.items():
            style = STYLES["dense_multimix" if name.startswith("Dense") else "multimix"]
            dashes = "--" if "embedding space" in name else "-"
            line = {"color": style.colour, "marker": style.marker, "ms": 4, "ls": dashes}
            axis.plot([int(n) for n in by_n], [row[key] for row in by_n.values()], label=name, **line)
        axis.set(xscale="log", yscale="log", xlabel="mixtures n", ylabel=ylabel)
    axes[-1].legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def against(
    axis: Axes, numbers: pd.DataFrame, x: str, y: str, by: str, levels: Mapping[str, float] | None = None, **labels
) -> None:
    """Every run's y against x, with mean and standard deviation over runs, one line for each value of the column `by`.

    A method has its own colour, marker and printed name; another value is printed as it is.

    Args:
        levels: what does not depend on x, such as a baseline's mean: a dashed line a method or other name.
        labels: go to the axis.
    """
    others = _series_styles((style_of("").colour, *SERIES[-2::-1]))  # none is like the colour of a method
    for name, rows in numbers.groupby(by, sort=False):
        style, of_x = _line_style(name, others), rows.groupby(x)[y].agg(["mean", "std"])
        axis.scatter(rows[x], rows[y], s=8, color=style["color"], alpha=0.4, lw=0)
        label = printed_name(name)
        axis.errorbar(of_x.index, of_x["mean"], of_x["std"], **style, lw=1.5, ms=5, capsize=3, label=label)
    for name, level in (levels or {}).items():
        colour = INK if known_method(name) is None else style_of(name).colour
        axis.axhline(level, color=colour, ls="--", lw=1.2, label=printed_name(name), zorder=1)
    _finish(axis, **{"xlabel": x, "ylabel": y, **labels})
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _line_style(name: str, others: Iterator[dict[str, str]]) -> dict[str, str]:
    """Colour and marker of a method, or the next of `others` for another name."""
    style = style_of(name)
    return next(others) if known_method(name) is None else {"color": style.colour, "marker": style.marker}
