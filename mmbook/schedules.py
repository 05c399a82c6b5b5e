"""Accuracy against the number of steps: runs of schedules of several lengths, and what theory predicts of them."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mmbook import grids, plots
from mmbook.comparison import training_images, training_steps
from mmbook.ledger import table
from mmbook.verdicts import Comparison

GRIDS = ("digits", "schedules", "schedules-long")


def scheduled_runs(root: str = "book/results", dataset: str = "digits") -> tuple[pd.DataFrame, int]:
    """Read the recorded runs of every length.

    Args:
        root: the ledger, relative to the root of the clone.
        dataset: the runs' data set.

    Returns:
        One row a run with its metrics, and the columns `variant` (without the length), `epochs`, `steps`, `images`,
        `lr` and `weight_decay`; and the number of cells without a record.
    """
    rows, missing = [], 0
    for grid in GRIDS:
        found = grids.grid_records(grid, root)
        missing += len(found.missing)
        for run, row in zip(found.records, table(found.records)):
            config = run.config
            length = {"epochs": config["epochs"], "steps": training_steps(run), "images": training_images(run)}
            length |= {"lr": config["lr"]}
            length |= {"weight_decay": config["weight_decay"], "loss": run.history[-1]["loss"]}
            rows.append(row | length | {"variant": run.variant.partition("-epochs")[0]})
    runs = pd.DataFrame(rows).drop_duplicates(["variant", "seed", "epochs"])
    runs = runs[runs["dataset"] == dataset]
    return runs.sort_values(["steps", "seed"], kind="stable"), missing


def differences(runs: pd.DataFrame, baseline: str = "mixup", metric: str = "accuracy") -> pd.DataFrame:
    """Compare every variant with the baseline at every length, seed by seed.

    Returns:
        One row for each variant and number of steps, with the mean difference, the ends of its interval and the seeds.
    """
    rows = []
    for steps, here in runs.groupby("steps"):
        wide = here.pivot(index="seed", columns="variant", values=metric)
        if baseline not in wide:
            continue
        for variant in wide.columns.drop(baseline):
            comparison = Comparison((wide[variant] - wide[baseline]).dropna().to_numpy())
            if comparison.seeds:
                low, high = comparison.t_interval()
                row = {"variant": variant, "steps": steps, "difference": comparison.mean, "low": low, "high": high}
                rows.append(row | {"seeds": comparison.seeds})
    return pd.DataFrame(rows)


def accuracies(runs: pd.DataFrame, metric: str = "accuracy") -> pd.DataFrame:
    """Average every variant at every length over its seeds.

    Returns:
        One row for each variant and number of steps, with the mean of the metric, the ends of its interval after
        Student (NaN for one seed) and the seeds.
    """
    rows = []
    for (variant, steps), here in runs.groupby(["variant", "steps"]):
        of_seeds = Comparison(here[metric].dropna().to_numpy())
        if of_seeds.seeds:
            low, high = of_seeds.t_interval()
            row = {"variant": variant, "steps": steps, metric: of_seeds.mean, "low": low, "high": high}
            rows.append(row | {"seeds": of_seeds.seeds})
    return pd.DataFrame(rows)


def own_label_weight(low: float, high: float, examples: int) -> float:
    """The mean weight 1 / (1 + mα) of an example's own label in its expected gradient, for α from U(low, high).

    Args:
        low, high: of the concentration of each example.
        examples: m, of a mixture; 2 for a pair.

    >>> own_label_weight(1.0, 1.0, 2)
    0.3333333333333333
    >>> round(own_label_weight(0.5, 2.0, 50), 4)
    0.0181
    """
    low, high = examples * low, examples * high
    if low == high:
        return 1 / (1 + low)
    return math.log((1 + high) / (1 + low)) / (high - low)


def predicted_differences(runs: pd.DataFrame, fraction: float, baseline: str = "mixup") -> pd.DataFrame:
    """Predict the difference of a method that has a fraction of the baseline's own-label gradient, and no other merit.

    After T steps such a method has learnt what the baseline has after `fraction` times T: the baseline's curve, shifted
    along the logarithm of the steps. Between lengths the curve is interpolated; beyond its ends it is not known.
    """
    curve = runs[runs["variant"] == baseline].groupby("steps")["accuracy"].mean()
    steps = np.array([x for x in curve.index if x * fraction >= curve.index[0]], dtype=float)
    shifted = np.interp(np.log(steps * fraction), np.log(curve.index.to_numpy(float)), curve.to_numpy())
    return pd.DataFrame({"steps": steps, "difference": shifted - np.interp(steps, curve.index, curve)})


def draw_differences(axis: Axes, table: pd.DataFrame, names: dict[str, str], **labels) -> None:
    """Draw each variant's difference against the steps, on a logarithmic axis, with its intervals.

    Args:
        names: the printed name of each variant to draw, in the order of the legend.
    """
    for (variant, name), colour, marker in zip(names.items(), plots.SERIES * 2, "osD^vP*X<>"):
        rows = table[table["variant"] == variant]
        if len(rows):
            axis.plot(rows["steps"], rows["difference"], marker=marker, ms=4, lw=1.2, color=colour, label=name)
            axis.fill_between(rows["steps"], rows["low"], rows["high"], color=colour, alpha=0.12, lw=0)
    axis.axhline(0, color=plots.INK, lw=0.8)
    axis.set(xscale="log", xlabel="steps", **labels)
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
