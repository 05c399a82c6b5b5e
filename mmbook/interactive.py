"""Pictures that answer: the simplex, embeddings beside each other, and accuracy against steps, as HTML.

Each is one piece of HTML with its style, data and script in it. It asks nothing of other hosts, so that it works in
JupyterLab (`IPython.display.HTML`), in the built site and on a page opened from a disk. Without scripts it is a still
picture. The same input gives the same bytes, and several stand on one page: what they are called is a hash of what
they hold.
"""

import base64
import hashlib
import html
import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files

import numpy as np
import pandas as pd
import torch
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path as Outline
from sklearn.datasets import load_digits

from mmbook.names import STYLES, Style, in_order, printed_name, style_of
from mmlib import sample_mixing_weights

CLASS_COLOURS = (  # of ten classes, after Tableau
    "#1f77b4",
    "#ff7f0e",
    "#2ca02c",
    "#d62728",
    "#9467bd",
    "#8c564b",
    "#e377c2",
    "#7f7f7f",
    "#bcbd22",
    "#17becf",
)
CORNER_COLOURS = ("#0072b2", "#e69f00", "#009e73")
GRID_STEPS = 1023  # a place in the plane is a whole number up to this, in each direction
IMAGE_BYTES = 1_500_000  # of all images of one picture, before base64
# The triangle of `simplex`, in units of its drawing, and its histogram.
CORNERS = ((150.0, 50.0), (30.0, 50.0 + 120 * 3**0.5), (270.0, 50.0 + 120 * 3**0.5))
HISTOGRAM = {"bins": 56, "largest": 128, "width": 400, "height": 72}
START = (0.45, 0.35, 0.2)  # λ before anybody moves it
MIXTURES = 400  # drawn for each histogram
LINE = 2  # lengths of schedules that make a line


def simplex(digits: Sequence[int] = (0, 2, 5), m: int = 128) -> str:
    """Mix three digits by hand, and see how many examples mixtures of m really mix, for every α.

    The left half is the simplex of three examples with a point to drag; its picture and its label are the mixture's.
    The right half draws mixtures from a symmetric Dirichlet and shows how many examples each really mixes, 1 / Σ λᵢ²,
    with α read as the concentration of each example and as that of the whole mixture, beside pairs as mixup draws them.

    Args:
        digits: three classes of scikit-learn's digits.
        m: examples of a mixture at first, 2 to 128.

    Returns:
        A piece of HTML.

    Raises:
        ValueError: not three different digits, or m out of its range.

    >>> simplex().startswith('<div class="mmb mmb-simplex"')
    True
    """
    if len(set(digits)) != 3 or not set(digits) <= set(range(10)):
        raise ValueError(f"digits must be three different classes from 0 to 9, got {digits}")
    if not 2 <= m <= HISTOGRAM["largest"]:
        raise ValueError(f"m must be an integer from 2 to {HISTOGRAM['largest']}, got {m}")
    images = [_typical_digit(digit) for digit in digits]
    data = {
        "weights": START,
        "corners": [[round(x, 2) for x in corner] for corner in CORNERS],
        "names": [f"of the {digit}" for digit in digits],
        "images": [image.flatten().tolist() for image in images],
        "histogram": HISTOGRAM,
        "draws": MIXTURES,
    }
    picture = _template("simplex.html").format(
        corners="".join(
            _pixels(image, x, y, 52) for image, (x, y) in zip(images, ((124, -8), (-30, 206), (278, 206)), strict=True)
        ),
        points=" ".join(f"{x:g},{y:.2f}" for x, y in CORNERS),
        incircle=f'cx="150" cy="{50 + 80 * 3**0.5:.2f}" r="{40 * 3**0.5:.2f}"',
        at="{:.2f} {:.2f}".format(*np.array(START) @ np.array(CORNERS)),
        blend=_pixels(np.tensordot(START, images, 1), 0, 0, 8),
        number=f"{1 / np.square(START).sum():.2f}",
        text=", ".join(f"{weight:.0%} of the {digit}" for weight, digit in zip(START, digits)).replace("%", " %"),
        bars="".join(_bar(*of_class) for of_class in zip(digits, CORNER_COLOURS, START)),
        m=m,
        **_drawn(m),
    )
    return _snippet("simplex", data, picture, "dirichlet.js", "simplex.js")


def _typical_digit(digit: int) -> np.ndarray:
    """The image of a class that lies nearest to its mean, (8, 8), values 0 to 16."""
    bunch = load_digits()
    of_class = bunch.images[bunch.target == digit].astype(int)
    return of_class[np.square(of_class - of_class.mean(0)).sum((1, 2)).argmin()]


def _pixels(image: np.ndarray, x: float, y: float, size: float) -> str:
    """A grey image of values 0 to 16 as squares, `size` units wide, its corner at x and y, in a black frame."""
    side = size / len(image)
    frame = f'<path stroke="black" stroke-width="{side:g}" d="M{x:g} {y:g}h{size:g}v{size:g}h{-size:g}Z"/>'
    rows = (
        f'<rect x="{x + side * j:g}" y="{y + side * i:g}" width="{side:g}" height="{side:g}" '
        f'fill="rgb({",".join([str(round(255 * value / 16))] * 3)})"/>'
        for (i, j), value in np.ndenumerate(image)
    )
    return f'{frame}<g shape-rendering="crispEdges">{"".join(rows)}</g>'


def _bar(digit: int, colour: str, share: float) -> str:
    return (
        f'<span>{digit}</span><span class="track of" style="--c:{colour}"><span class="swatch" '
        f'style="display:block;width:{share:.0%}"></span></span><span class="share">{round(100 * share)} %</span>'
    )


def _drawn(m: int) -> dict[str, str]:
    """The right half before anybody moves it: α = 1, drawn by the library's own sampler."""
    generator = torch.Generator().manual_seed(0)
    outlines, rows = [], []
    for name, examples, alpha, style, dash in (
        ("MultiMix, α of each example", m, 1.0, STYLES["multimix"], "solid"),
        ("MultiMix (total α)", m, 1 / m, STYLES["dense_multimix-total"], "dashed"),
        ("mixup, pairs", 2, 1.0, STYLES["mixup"], "dotted"),
    ):
        weights = sample_mixing_weights(MIXTURES, examples, alpha, generator=generator, dtype=torch.float64).numpy()
        numbers = 1 / np.square(weights).sum(1)
        dashes = {"solid": "", "dashed": ' stroke-dasharray="6 3"', "dotted": ' stroke-dasharray="2 2"'}[dash]
        outlines.append(
            f'<g class="of" style="--c:{style.colour}"><path class="outline"{dashes} d="{_outline(numbers)}"/></g>'
        )
        typical = np.argsort(numbers)[MIXTURES // 2]
        ends = np.cumsum(np.sort(weights[typical])[::-1])
        strip = "".join(
            f'<rect x="{100 * start:.2f}" y="0" width="{100 * (end - start):.2f}" height="8"/>'
            for start, end in zip([0, *ends], ends)
            if end - start > 0.0005
        )
        rows.append(
            f'<div class="of" style="--c:{style.colour};--dash:{dash}"><span class="name">{name}</span>'
            f'<svg viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">{strip}</svg>'
            f'<span class="number">{numbers.mean():.1f}</span></div>'
        )
    return {"outlines": "".join(outlines), "rows": "".join(rows)}


def _outline(numbers: np.ndarray) -> str:
    """A histogram over the logarithm, as the script draws it."""
    bins, width, height = HISTOGRAM["bins"], HISTOGRAM["width"], HISTOGRAM["height"]
    places = np.clip(bins * np.log(numbers) / math.log(HISTOGRAM["largest"]), 0, bins - 1).astype(int)
    counts = np.bincount(places, minlength=bins)
    steps = "".join(f"V{height * (1 - count / counts.max()):.1f}h{width / bins:.3f}" for count in counts)
    return f"M0 {height}{steps}V{height}Z"


def embedding_scatter(
    panels: Mapping[str, np.ndarray],
    labels: np.ndarray,
    images: np.ndarray,
    class_names: Sequence[str] | None = None,
    *,
    what: str = "test images",
) -> str:
    """Embeddings of the same images by two methods side by side, each method chosen from a menu.

    An image is shown at the pointer, with its class, and ringed in both panels; the arrow keys go from dot to dot. The
    legend switches classes off and on.

    Args:
        panels: places in the plane (n, 2), by variant; the first and the second one are shown at first.
        labels: classes (n,).
        images: bytes, (n, h, w), or (n, h, w, 3) with colours; halved as often as all of them together are too large.
        class_names: of each label; the numbers themselves by default.
        what: the dots, in the plural.

    Returns:
        A piece of HTML.

    Raises:
        ValueError: no panel, places of another shape or not finite, or images that are not n images of bytes.

    >>> places = {"mixup": np.eye(2), "multimix": np.ones((2, 2))}
    >>> "MultiMix" in embedding_scatter(places, np.array([0, 1]), np.zeros((2, 8, 8), dtype=np.uint8))
    True
    """
    labels, images = np.asarray(labels), np.asarray(images)
    names = [str(k) for k in range(labels.max() + 1)] if class_names is None else list(class_names)
    if not panels:
        raise ValueError("panels must hold the places of at least one variant, got none")
    for variant, places in panels.items():
        if np.shape(places) != (len(labels), 2) or not np.isfinite(places).all():
            raise ValueError(
                f"panels must hold finite places ({len(labels)}, 2), got {np.shape(places)} for {variant!r}"
            )
    if images.dtype != np.uint8 or len(images) != len(labels) or images.shape[3:] not in ((), (3,)):
        shape = f"({len(labels)}, h, w)"
        raise ValueError(f"images must be bytes {shape} or {shape[:-1]}, 3), got {images.shape} of {images.dtype}")
    images, order = _shrunk(images), in_order(panels)
    places = {variant: _whole_numbers(np.asarray(panels[variant], dtype=float)) for variant in order}
    shown = [order.index(variant) for variant in [*panels][:2]]
    classes = sorted(set(labels.tolist()))
    colours = {label: CLASS_COLOURS[label % len(CLASS_COLOURS)] for label in classes}
    data = {
        "methods": [printed_name(variant) for variant in order],
        "shown": shown,
        "places": [_base64(of_variant.astype("<u2")) for of_variant in places.values()],
        "labels": labels.tolist(),
        "names": {label: names[label] for label in classes},
        "images": _base64(images),
        "shape": [*images.shape[1:3], 3 if images.ndim == 4 else 1],
    }
    drawn = "".join(
        _panel(printed_name(order[k]), places[order[k]], labels, colours, side) for side, k in enumerate(shown)
    )
    legend = "".join(
        f'<button type="button" class="of" style="--c:{colour}" data-class="{label}" aria-pressed="true" disabled>'
        f'<svg viewBox="0 0 14 14" aria-hidden="true"><path class="dots" stroke-width="10" d="M7 7h0"/></svg>'
        f"<span>{html.escape(names[label])}</span></button>"
        for label, colour in colours.items()
    )
    picture = _template("scatter.html").format(panels=drawn, legend=legend, n=len(labels), what=html.escape(what))
    return _snippet("scatter", data, picture, "scatter.js")


def _shrunk(images: np.ndarray) -> np.ndarray:
    """Images of half the size, by the mean of two by two, as often as it takes to have no more than IMAGE_BYTES."""
    while images.nbytes > IMAGE_BYTES and min(images.shape[1:3]) > 4:
        even = images[:, : images.shape[1] // 2 * 2, : images.shape[2] // 2 * 2].astype(np.uint16)
        images = ((even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2]) // 4).astype("u1")
    return images


def _whole_numbers(places: np.ndarray) -> np.ndarray:
    """Places (n, 2) in a square of GRID_STEPS, the same scale in both directions, upwards as in a plot."""
    low, high = places.min(0), places.max(0)
    centred = (places - (low + high) / 2) / (max(*(high - low)) or 1) * (1, -1)
    return np.rint((centred + 0.5) * GRID_STEPS).astype(int)


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _panel(name: str, places: np.ndarray, labels: np.ndarray, colours: dict[int, str], side: int) -> str:
    """One panel as it is drawn before the script runs; dots of a class are one path, a point a stroke of no length."""
    paths = "".join(
        f'<g class="of" style="--c:{colour}"><path class="dots" data-class="{label}" stroke-width="15" '
        f'd="{"".join(f"M{x} {y}h0" for x, y in places[labels == label])}"/></g>'
        for label, colour in colours.items()
    )
    return (
        f'<div class="panel"><div class="method"><span>{html.escape(name)}</span></div>'
        '<svg viewBox="-20 -20 1063 1063" '
        f'role="img" aria-label="Embeddings, {"left" if side == 0 else "right"} panel: {html.escape(name)}">{paths}'
        '<circle class="ring" r="20" hidden="hidden"/></svg></div>'
    )


def schedule_chart(
    differences: pd.DataFrame,
    accuracies: pd.DataFrame,
    *,
    baseline: str = "mixup",
    shown: Sequence[str] | None = None,
    height: int = 300,
) -> str:
    """Accuracy against the number of steps, with its interval, or the difference to a baseline.

    Buttons switch methods on and off. At the pointer, or by the arrow keys, stand the values and the number of seeds.

    Args:
        differences: as `schedules.differences` returns them: `variant`, `steps`, `difference`, `low`, `high`, `seeds`.
        accuracies: as `schedules.accuracies` returns them: the same with `accuracy`.
        baseline: the variant that the differences are to.
        shown: variants that are on at first; by default those of two lengths or more.
        height: of the picture, in pixels.

    Returns:
        A piece of HTML.

    Raises:
        ValueError: a table without rows or without a column, or `shown` without a variant of the tables.
    """
    for name, table, column in (("differences", differences, "difference"), ("accuracies", accuracies, "accuracy")):
        columns = ["variant", "steps", column, "low", "high", "seeds"]
        if not {*columns} <= {*table.columns}:
            raise ValueError(f"{name} must have the columns {', '.join(columns)}, got {', '.join(table.columns)}")
        if table.empty:
            raise ValueError(f"{name} must have a row at least, got none")
    known = in_order([*accuracies["variant"], *differences["variant"]])
    lengths = accuracies.groupby("variant")["steps"].nunique()
    if shown is None:
        shown = [variant for variant in known if lengths.get(variant, 0) >= LINE] or known
    if unknown := {*shown} - {*known}:
        raise ValueError(f"shown must be of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    level = accuracies.assign(difference=0.0, low=math.nan, high=math.nan)  # of the baseline to itself
    series = [
        {
            "name": style.name,
            "colour": style.colour,
            "mark": _marker(style.marker),
            "on": variant in shown,
            "difference": _points(level if variant == baseline else differences, variant, "difference"),
            "accuracy": _points(accuracies, variant, "accuracy"),
        }
        for variant in known
        for style in [style_of(variant)]
    ]
    data = {"series": series, "baseline": printed_name(baseline), "height": height}
    legend = "".join(_legend_button(style_of(variant), variant in shown, k) for k, variant in enumerate(known))
    picture = _template("schedule.html").format(
        chart=_still_chart(data),
        legend=legend,
        baseline=html.escape(printed_name(baseline)),
    )
    return _snippet("schedule", data, picture, "schedule.js")


def _points(table: pd.DataFrame, variant: str, column: str) -> list[list]:
    """Steps, value, the interval's ends (None without one) and seeds, a row a length."""
    rows = table[table["variant"] == variant].sort_values("steps")
    return [
        [int(steps), *(round(float(x), 3) if math.isfinite(x) else None for x in numbers), int(seeds)]
        for steps, *numbers, seeds in rows[["steps", column, "low", "high", "seeds"]].itertuples(index=False)
    ]


def _marker(marker: str, size: float = 9) -> str:
    """A marker of matplotlib as a path about the origin."""
    style = MarkerStyle(marker)
    path = style.get_path().transformed(style.get_transform())
    letters = {
        Outline.MOVETO: "M",
        Outline.LINETO: "L",
        Outline.CURVE3: "Q",
        Outline.CURVE4: "C",
        Outline.CLOSEPOLY: "Z",
    }
    parts = []
    for corners, code in path.iter_segments(curves=True, simplify=False):
        at = (
            ""
            if code == Outline.CLOSEPOLY
            else ",".join(f"{x:.2f}" for x in size * corners * np.tile([1, -1], len(corners) // 2))
        )
        parts.append(letters[code] + at)
    return "".join(parts).replace("-0.00", "0.00")


def _legend_button(style: Style, on: bool, number: int) -> str:
    return (
        f'<button type="button" class="of" style="--c:{style.colour}" data-series="{number}" '
        f'aria-pressed="{str(on).lower()}" disabled><svg viewBox="-7 -7 14 14" aria-hidden="true">'
        f'<path class="mark" d="{_marker(style.marker)}"/></svg><span>{html.escape(style.name)}</span></button>'
    )


def _still_chart(data: dict) -> str:
    """The chart before the script runs: differences of the variants that are on, 640 units wide."""
    width, height, left, bottom = 640, data["height"], 46, 40
    series = [one for one in data["series"] if one["on"] and one["difference"]]
    points = [point for one in series for point in one["difference"]]
    if not points:
        return f'<svg viewBox="0 0 {width} {height}"></svg>'
    steps = sorted({point[0] for point in points})
    values = [0, *(x for point in points for x in point[1:4] if x is not None)]
    first, last, low, high = math.log(steps[0]), math.log(steps[-1]), min(values), max(values)

    def place(x: float, y: float) -> tuple[float, float]:
        share = (math.log(x) - first) / (last - first) if last > first else 0.5
        return left + 16 + share * (width - left - 40), 12 + (high - y) / (high - low or 1) * (height - 12 - bottom - 8)

    ticks = "".join(
        f'<text x="{place(x, 0)[0]:.1f}" y="{height - bottom + 17}" text-anchor="middle">{x:,}</text>' for x in steps
    )
    ticks += "".join(
        f'<text x="{left - 6}" y="{place(steps[0], y)[1] + 4:.1f}" text-anchor="end">{f"{y:+.0f}" if y else 0}</text>'
        f'<path class="grid" d="M{left} {place(steps[0], y)[1]:.1f}H{width}"/>'
        for y in sorted({math.ceil(low), 0, math.floor(high)})
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Test accuracy less that of '
        f'{html.escape(data["baseline"])}, in points, against training steps">{ticks}'
        f'<path class="axis" d="M{left} {place(steps[0], 0)[1]:.1f}H{width}"/>'
        f"{''.join(_still_series(one, place) for one in series)}"
        f'<text x="{width}" y="{height - 6}" text-anchor="end">training steps</text></svg>'
    )


def _still_series(one: dict, place) -> str:
    at = [place(point[0], point[1]) for point in one["difference"]]
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y in at)
    intervals = "".join(
        f"M{x:.1f} {place(steps, low)[1]:.1f}V{place(steps, high)[1]:.1f}"
        for (x, _), (steps, _, low, high, _) in zip(at, one["difference"])
        if low is not None
    )
    marks = "".join(
        f'<path class="mark{" single" * (point[4] < 2)}" transform="translate({x:.1f} {y:.1f})" d="{one["mark"]}"/>'
        for (x, y), point in zip(at, one["difference"])
    )
    return f'<g class="of" style="--c:{one["colour"]}"><path class="line" d="M{line}{intervals}"/>{marks}</g>'


def _template(name: str) -> str:
    return (files("mmbook") / "templates" / name).read_text(encoding="utf-8")


def _snippet(name: str, data: dict, picture: str, *scripts: str) -> str:
    """A still picture, and the style, the data and the script that bring it to life."""
    style = _template("interactive.css") + _template(f"{name}.css")
    written = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    script = "\n".join(map(_template, ("common.js", *scripts)))
    key = hashlib.sha256(f"{name}{picture}{written}".encode()).hexdigest()[:12]
    return (
        f'<div class="mmb mmb-{name}" data-mmb="{key}"><style>\n{style}</style>\n{picture.strip()}\n'
        f'<script type="application/json">{written}</script>\n'
        f'<script>\n(() => {{\n"use strict";\n{script}\nbringToLife("{key}", build);\n}})();\n</script></div>\n'
    )
