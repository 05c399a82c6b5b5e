"""Accuracy against the number of steps: runs of schedules of several lengths, and what theory predicts of them."""

import math
from collections.abc import Collection, Iterable, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mmbook import grids, plots
from mmbook.comparison import counted, forms_and_others, joined, mean_auroc, training_images, training_steps
from mmbook.comparison import sentence as sentence_on
from mmbook.grids import Cell
from mmbook.ledger import table
from mmbook.names import in_order, printed_name, style_of
from mmbook.verdicts import FAILS, HOLDS, MIN_SEEDS, Comparison, compare, judge, verdicts
from mmlib.experiments.runs import RunRecord

# The grids that together hold a data set's runs of every length.
GRIDS = {"digits": ("digits", "schedules", "schedules-long"), "cifar100": ("cifar100-schedules",)}
OTHER_LENGTHS = (100, 400, 40_000)  # steps, beside the 4,000 of most grids


def scheduled_records(root: str = "book/results", dataset: str = "digits") -> tuple[list[RunRecord], list[Cell]]:
    """Read the recorded runs of every length, each once, however many of the grids take it.

    Args:
        root: the ledger, relative to the root of the clone.
        dataset: the runs' data set, a name of `GRIDS`.

    Returns:
        The records, and the cells without one.

    Raises:
        ValueError: no grid has schedules of that data set.
    """
    if dataset not in GRIDS:
        raise ValueError(f"dataset must be one of {', '.join(GRIDS)}, got {dataset!r}")
    records, missing = {}, {}
    for grid in GRIDS[dataset]:
        found = grids.grid_records(grid, root)
        records |= {run.embeddings_path: run for run in found.records}
        missing |= {(cell.grid, cell.path): cell for cell in found.missing}
    return list(records.values()), list(missing.values())


def scheduled_runs(root: str = "book/results", dataset: str = "digits") -> tuple[pd.DataFrame, list[Cell]]:
    """Tabulate the recorded runs of every length.

    Args:
        root: the ledger, relative to the root of the clone.
        dataset: the runs' data set, a name of `GRIDS`.

    Returns:
        One row a run with its metrics, and the columns `variant` (without the length), `epochs`, `steps`, `images`,
        `lr`, `momentum`, `weight_decay`, `loss` and `ood_auroc`; and the cells without a record.

    Raises:
        ValueError: no grid has schedules of that data set.
        FileNotFoundError: nothing of it is recorded.
    """
    records, missing = scheduled_records(root, dataset)
    if not records:
        raise FileNotFoundError(f"root must hold a run of {' or '.join(GRIDS[dataset])}, got {root!r}")
    rows = []
    for run, row in zip(records, table(records)):
        config = run.config
        length = {"epochs": config["epochs"], "steps": training_steps(run), "images": training_images(run)}
        measured = {"loss": run.history[-1]["loss"], "ood_auroc": mean_auroc(run)}
        decay = {"lr": config["lr"], "momentum": config["momentum"], "weight_decay": config["weight_decay"]}
        rows.append(row | length | decay | measured | {"variant": variant_of(run)})
    return pd.DataFrame(rows).sort_values(["steps", "seed"], kind="stable"), missing


def variant_of(run: RunRecord) -> str:
    """The variant without its length: runs of several lengths are of one method."""
    return run.variant.partition("-epochs")[0]


def records_at(lengths: Collection[int] = OTHER_LENGTHS, root: str = "book/results") -> list[RunRecord]:
    """The recorded runs on digits of some numbers of steps, on which `at_other_lengths` gives its verdicts."""
    return [run for run in scheduled_records(root)[0] if training_steps(run) in lengths]


def lengths(runs: pd.DataFrame, missing: Iterable[Cell] = ()) -> pd.DataFrame:
    """Tell epochs, steps and images of every planned length apart.

    Args:
        runs: of `scheduled_runs`.
        missing: cells without a record, whose lengths are listed too.

    Returns:
        One row for each number of `steps`: its `epochs`, `images` (each counted as often as it is seen), the share of a
        weight that weight decay alone `leaves` of it, and how many runs are `recorded` and `missing`.
    """
    without = pd.Series([cell.config.epochs for cell in missing], dtype=int)
    counts = {"recorded": runs["epochs"].value_counts(), "missing": without.value_counts()}
    rows = pd.DataFrame(counts).fillna(0).astype(int).rename_axis("epochs").sort_index().reset_index()
    one = runs.iloc[0]
    rows["steps"], rows["images"] = (rows["epochs"] * one[of] // one["epochs"] for of in ("steps", "images"))
    # With a cosine to zero the learning rate is half its maximum on average, and momentum adds up all past decay.
    rate = one["lr"] / 2 / (1 - one["momentum"])
    rows["leaves"] = np.exp(-rows["steps"] * rate * one["weight_decay"])
    return rows.set_index("steps")[["epochs", "images", "leaves", "recorded", "missing"]]


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


def lead(runs: Mapping[str, pd.DataFrame], variant: str, baseline: str = "mixup") -> str:
    """Say where a variant is shown to be more accurate than the baseline, and where less, by verdicts on all lengths.

    Holm's correction is for the lengths of all data sets together.

    Args:
        runs: of `scheduled_runs`, by the name of the data set.

    >>> rows = [("mixup", 100, k, 90.0) for k in range(3)] + [("multimix", 100, k, 60.0 + k) for k in range(3)]
    >>> runs = pd.DataFrame(rows, columns=["variant", "steps", "seed", "accuracy"])
    >>> lead({"digits": runs}, "multimix")
    'At no recorded length is MultiMix shown to be more accurate than mixup; it is shown to be less accurate on digits \
after 100 steps.'
    """
    family = {
        (data, steps): compare(here, variant, baseline, "accuracy")
        for data, of in runs.items()
        for steps, here in of.groupby("steps")
        if {variant, baseline} <= set(here["variant"])
    }
    judged = verdicts({key: compared for key, compared in family.items() if compared.seeds})["verdict"]

    def where(verdict: str) -> str:
        found = judged[judged == verdict].index.to_frame(name=["data", "steps"])
        lengths = found.groupby("data", sort=False)["steps"].apply(lambda steps: joined([f"{k:,}" for k in steps]))
        return joined([f"on {data} after {steps} steps" for data, steps in lengths.items()])

    name, other, better, worse = printed_name(variant), printed_name(baseline), where(HOLDS), where(FAILS)
    says = f"{name} is shown to be more accurate than {other} {better}" if better else ""
    says = says or f"At no recorded length is {name} shown to be more accurate than {other}"
    return f"{says}; it is shown to be less accurate {worse}." if worse else f"{says}."


def at_other_lengths(
    runs: pd.DataFrame,
    claims: Mapping[str, tuple[str, int]],
    lengths: Iterable[int] = OTHER_LENGTHS,
    baseline: str = "mixup",
) -> str:
    """Give the verdicts on claims against the baseline after other numbers of steps, in Markdown.

    Holm's correction is for all claims of one length together. A length without runs is left out.

    Args:
        runs: of `scheduled_runs`.
        claims: the metric and its sign, by the claim's title.
    """
    lines = []
    for steps in lengths:
        here = runs[runs["steps"] == steps]
        forms, _ = forms_and_others(here)
        if not forms or baseline not in set(here["variant"]):
            continue
        family = judge(here, forms, baseline, claims)
        told = [sentence_on(title, family.loc[title, "verdict"]) for title in claims]
        seeds = family["seeds"]
        known = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
        lines.append(f"After {steps:,} steps ({known} seeds). {' '.join(told)}")
    return "\n\n".join(lines)


def sentence(table: pd.DataFrame, variant: str, baseline: str = "mixup") -> str:
    """Say where a variant stands beside the baseline on the shortest and the longest schedule, and where it is ahead.

    Args:
        table: of `differences`.

    >>> columns = ["variant", "steps", "difference", "low", "high", "seeds"]
    >>> rows = [["multimix", 100, -9.0, -12.0, -6.0, 3], ["multimix", 4000, 0.5, -1.0, 2.0, 3]]
    >>> sentence(pd.DataFrame(rows, columns=columns), "multimix")
    '**MultiMix** is 9.0 points behind mixup after 100 steps (3 seeds, 95 % interval −12.0 to −6.0) and 0.5 points \
ahead after 4,000 steps (3 seeds, 95 % interval −1.0 to +2.0). Its mean is ahead after 4,000 steps.'
    """
    rows = table[table["variant"] == variant].sort_values("steps")
    ahead = rows.loc[rows["difference"] > 0, "steps"]
    where = {0: "at no length", len(rows): "at every length"}
    says = where.get(len(ahead), f"after {joined([f'{steps:,}' for steps in ahead])} steps")
    return f"**{printed_name(variant)}** is {standing(rows, baseline)}. Its mean is ahead {says}."


def standing(rows: pd.DataFrame, baseline: str = "mixup") -> str:
    """Say how far a variant is from the baseline on the shortest and on the longest schedule.

    They are those with at least `MIN_SEEDS` seeds, where any has as many.

    Args:
        rows: of `differences`, those of one variant.
    """
    enough = rows[rows["seeds"] >= MIN_SEEDS]
    rows = (enough if len(enough) else rows).sort_values("steps")
    ends = rows.iloc[[0, -1]].drop_duplicates("steps").to_dict("records")
    names = [printed_name(baseline), ""]  # named once
    return " and ".join(_distance(row, name) for row, name in zip(ends, names))


def _distance(row: dict, baseline: str) -> str:
    side = "behind" if row["difference"] <= 0 else "ahead of" if baseline else "ahead"
    beside = f"{abs(row['difference']):.1f} points {side} {baseline}".rstrip()
    known = counted(row["seeds"], "seed")
    if row["seeds"] >= MIN_SEEDS and not math.isnan(row["low"]):
        known += f", 95 % interval {row['low']:+.1f} to {row['high']:+.1f}".replace("-", "−")
    return f"{beside} after {row['steps']:,} steps ({known})"


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


def own_label_weight(low: float, high: float, examples: int, mixed: int | None = None) -> float:
    """The mean weight of an example's own label in its expected gradient, above what all of the mini-batch get.

    It is 1 / (1 + mα) for mixtures of the whole mini-batch, and (m (1 + α) / (1 + Lα) - 1) / (m - 1) for mixtures of L
    random examples that differ.

    Args:
        low, high: of the concentration α of each example, which is drawn from U(low, high).
        examples: m, of the mini-batch.
        mixed: L, the examples of a mixture; None for all m.

    >>> round(own_label_weight(0.5, 2.0, 50), 4)
    0.0181
    >>> round(own_label_weight(1.0, 1.0, 50, mixed=2), 4)
    0.6599
    """
    mixed = examples if mixed is None else mixed
    low, high = mixed * low, mixed * high
    shrunk = 1 / (1 + low) if low == high else math.log((1 + high) / (1 + low)) / (high - low)
    second_moment = (1 + (mixed - 1) * shrunk) / mixed  # m E[λ²] of an example
    return (examples * second_moment - 1) / (examples - 1)


def own_label_weights(examples: int) -> dict[str, float]:
    """The mean own-label weight of a step of ERM, of mixup and of MultiMix with either reading of its α.

    Half of MultiMix's mini-batches get input mixup, as its default has it. A partner of mixup's is any example of the
    mini-batch, the example itself included, so that a pair keeps exactly 2/3.

    Args:
        examples: m, of the mini-batch.

    >>> {variant: round(weight, 2) for variant, weight in own_label_weights(50).items()}
    {'erm': 1.0, 'mixup': 0.67, 'multimix': 0.34, 'multimix-total': 0.56}
    """
    pair = 2 / 3
    each, total = (own_label_weight(0.5 / share, 2.0 / share, examples) for share in (1, examples))
    return {"erm": 1.0, "mixup": pair, "multimix": (pair + each) / 2, "multimix-total": (pair + total) / 2}


def predicted_differences(runs: pd.DataFrame, fraction: float, baseline: str = "mixup") -> pd.DataFrame:
    """Predict the difference of a method that has a fraction of the baseline's own-label gradient, and no other merit.

    After T steps such a method has learnt what the baseline has after `fraction` times T: the baseline's curve, shifted
    along the logarithm of the steps. Between lengths the curve is interpolated; beyond its ends it is not known. Each
    seed has its own curve, and differences are averaged over the seeds that have both ends.
    """
    parts = []
    for _, of_seed in runs[runs["variant"] == baseline].groupby("seed"):
        curve = of_seed.set_index("steps")["accuracy"].sort_index()
        lengths = np.log(curve.index.to_numpy(float))
        shifted = lengths + math.log(fraction)
        known = (shifted >= lengths[0]) & (shifted <= lengths[-1])
        parts.append((np.interp(shifted, lengths, curve) - curve)[known])
    means = pd.concat(parts).groupby(level=0).mean()
    return pd.DataFrame({"steps": means.index.to_numpy(float), "difference": means.to_numpy()})


def crossing(table: pd.DataFrame) -> str:
    """Say between which lengths a variant passes the baseline for the first time.

    Args:
        table: `steps` and `difference` of one variant.

    >>> crossing(pd.DataFrame({"steps": [400, 1000, 2000], "difference": [-1.2, -0.3, 0.1]}))
    'between 1,000 and 2,000 steps'
    """
    rows = table.sort_values("steps")
    steps = [int(length) for length in rows["steps"]]
    ahead = [bool(difference > 0) for difference in rows["difference"]]
    if True not in ahead:
        return f"at none of {steps[0]:,} to {steps[-1]:,} steps"
    first = ahead.index(True)
    return f"between {steps[first - 1]:,} and {steps[first]:,} steps" if first else f"already at {steps[0]:,} steps"


def lengthened(runs: pd.DataFrame, short: int, long: int) -> pd.DataFrame:
    """Compare every variant's accuracy after a long schedule with its own after a short one, seed by seed.

    Returns:
        One row for each variant that has both, with the mean `difference`, the ends of its interval, the `seeds`, and
        on how many of them the longer schedule is `ahead`.
    """
    rows = {}
    for variant, of in runs.groupby("variant"):
        wide = of.pivot(index="seed", columns="steps", values="accuracy").reindex(columns=[short, long])
        compared = Comparison((wide[long] - wide[short]).dropna().to_numpy())
        if compared.seeds:
            low, high = compared.t_interval()
            row = {"difference": compared.mean, "low": low, "high": high, "seeds": compared.seeds}
            rows[variant] = row | {"ahead": compared.ahead}
    return pd.DataFrame.from_dict(rows, orient="index").loc[in_order(rows)]


def draw_differences(axis: Axes, table: pd.DataFrame, variants: Iterable[str] | None = None, **labels) -> None:
    """Draw each variant's difference against the steps, with bars for its intervals.

    Steps are on a logarithmic axis, and differences on that of `plots.scale_points`. Marks of one length stand side by
    side, so that none hides another. Fewer than `MIN_SEEDS` seeds have no bar: of two it is as wide as chance has it.

    Args:
        variants: to be drawn; None draws all, in the order of `names.in_order`.
    """
    axis.set_xscale("log")
    drawn = [v for v in in_order(table["variant"] if variants is None else variants) if (table["variant"] == v).any()]
    for row, variant in enumerate(drawn):
        rows, (name, colour, marker) = table[table["variant"] == variant], style_of(variant)
        steps = rows["steps"] * 1.03 ** (row - (len(drawn) - 1) / 2)
        axis.plot(steps, rows["difference"], marker=marker, ms=6, lw=1, color=colour, label=name, mec="white", mew=0.4)
        known = (rows["seeds"] >= MIN_SEEDS).to_numpy()
        axis.vlines(steps[known], rows["low"][known], rows["high"][known], color=colour, alpha=0.5, lw=1.2)
    plots.scale_points(axis.yaxis)
    axis.axhline(0, color=plots.INK, lw=0.8)
    axis.set(**labels)
    label_steps(axis, table["steps"])
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def label_steps(axis: Axes, steps: Iterable[int]) -> None:
    """Make the horizontal axis logarithmic, with a mark at every length."""
    lengths = sorted({*steps})
    axis.set_xscale("log")
    axis.set_xticks(lengths, [f"{length:,}" for length in lengths], rotation=30)
    axis.minorticks_off()
    axis.set_xlabel("steps")


def draw_theory(axes: Iterable[Axes], runs: pd.DataFrame, examples: int, decay: pd.Series) -> None:
    """Draw what theory has to explain and what it explains it by, one above another on one axis of steps.

    The panels are: accuracy less mixup's, measured (marks) and predicted (dashed); the training loss; what all steps
    together carry of each example's own label, in steps of ERM; and the share of a weight that weight decay leaves.

    Args:
        axes: four.
        runs: of `scheduled_runs`.
        examples: m, of the mini-batch.
        decay: what weight decay `leaves` after so many steps, of `lengths`.
    """
    axes, weights, steps = list(axes), own_label_weights(examples), sorted(runs["steps"].unique())
    draw_differences(axes[0], differences(runs), [variant for variant in weights if variant != "mixup"])
    for variant, weight in weights.items():
        name, colour, marker = style_of(variant)
        look = {"color": colour, "marker": marker, "ms": 5, "lw": 1, "label": name}
        if variant != "mixup":
            predicted = predicted_differences(runs, weight / weights["mixup"])
            axes[0].plot("steps", "difference", "--", data=predicted, color=colour, lw=1.5)
        axes[1].plot(runs[runs["variant"] == variant].groupby("steps")["loss"].mean(), **look)
        axes[2].plot(steps, [weight * length for length in steps], **look)
    axes[2].set_yscale("log")
    axes[3].plot(decay, color=plots.INK, marker="o", ms=4, lw=1)
    axes[3].set_ylim(0, 1)
    axes[0].get_legend().remove()
    for axis in axes:
        label_steps(axis, decay.index)
    for axis in axes[:-1]:
        axis.tick_params(labelbottom=False)
        axis.set_xlabel("")
