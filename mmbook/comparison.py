"""The forms of MultiMix against the best other method: what the chapters on embeddings and accuracy share."""

import pandas as pd
from matplotlib.axes import Axes

from mmbook import plots
from mmbook.names import FORMS, in_order, known_method, printed_name, style_of
from mmbook.verdicts import (
    FAILS,
    HOLDS,
    MIN_SEEDS,
    OPEN,
    UNTESTABLE,
    Comparison,
    best_by_validation,
    compare,
    summarize,
)
from mmlib._checks import nearest
from mmlib.experiments.runs import RunRecord

DEFAULT_BATCH_SIZES = {"digits": 50, "shapes": 50}  # as in mmlib.experiments.data; 128 elsewhere
SMALL_NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def training_images(run: RunRecord) -> int:
    """Return the number of images that a run was trained on, each counted as often as it was seen."""
    return round(run.environment["images_per_second"] * run.environment["train_seconds"])


def training_steps(run: RunRecord) -> int:
    """Return the number of steps that a run took."""
    of_one_process = run.config["batch_size"] or DEFAULT_BATCH_SIZES.get(run.dataset, 128)
    return run.environment.get("steps") or training_images(run) // of_one_process  # older records do not count them


def mean_auroc(run: RunRecord) -> float:
    """Return the mean AUROC (%) over the sets of other images, by the maximum softmax; NaN where a run saw none."""
    scores = [found["maximum_softmax"]["auroc"] for found in run.metrics["ood"].values()]
    return float(pd.Series(scores, dtype=float).mean())


def describe(runs: list[RunRecord]) -> str:
    """Count the variants, seeds, steps and training images of runs in one line."""
    seeds = pd.Series([run.variant for run in runs]).value_counts()
    steps = {training_steps(run) for run in runs}
    images = {training_images(run) // run.config["epochs"] for run in runs}
    return (
        f"{counted(len(runs), 'finished run')} of {counted(len(seeds), 'variant')}: "
        f"{_span(set(seeds), 'seed')} each, {_span(steps, 'step')}, {_span(images, 'image')} an epoch"
    )


def trained_for(runs: list[RunRecord]) -> str:
    """Say for how many steps runs were trained, in a sentence."""
    return f"The networks were trained for {_span({training_steps(run) for run in runs}, 'step')}."


def _span(counts: set[int], noun: str) -> str:
    low, high = min(counts), max(counts)
    return counted(high, noun) if low == high else f"{low:,} to {counted(high, noun)}"


def forms_and_others(numbers: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Split the variants of a table of runs into forms of MultiMix and other methods; unknown variants are neither."""
    known = {variant: known_method(variant) for variant in in_order(numbers["variant"])}
    forms = [variant for variant, method in known.items() if method in FORMS]
    return forms, [variant for variant, method in known.items() if method and method not in FORMS]


def best_other(numbers: pd.DataFrame) -> str | None:
    """Choose the other method with the highest mean validation accuracy; None where there is no other method.

    The choice is `best_by_validation`.
    """
    others = forms_and_others(numbers)[1]
    return best_by_validation(numbers, others) if others else None


def on_shared_seeds(numbers: pd.DataFrame) -> pd.DataFrame:
    """Keep the runs of those seeds that every variant has: means over different seeds are means over different splits.

    >>> numbers = pd.DataFrame({"variant": ["erm", "erm", "mixup"], "seed": [0, 1, 0]})
    >>> on_shared_seeds(numbers)["seed"].tolist()
    [0, 0]
    """
    counts = numbers.groupby("seed")["variant"].nunique()
    return numbers[numbers["seed"].isin(counts[counts == numbers["variant"].nunique()].index)]


def compare_forms(numbers: pd.DataFrame, other: str, metric: str, sign: int = 1) -> dict[str, Comparison]:
    """Compare every form of MultiMix with another method, by variant.

    Args:
        sign: 1 where a higher metric is better, -1 where a lower one is: positive differences favour the form.
    """
    compared = {form: compare(numbers, form, other, metric, sign) for form in forms_and_others(numbers)[0]}
    return {form: comparison for form, comparison in compared.items() if form != other and comparison.seeds}


def draw_comparisons(axis: Axes, comparisons: dict[str, Comparison], title: str) -> None:
    """Draw a row for each variant: every seed's difference, their mean and its 95 % interval."""
    for row, (variant, comparison) in enumerate(comparisons.items()):
        colour = style_of(variant).colour
        axis.scatter(comparison.differences, [row - 0.25] * comparison.seeds, s=12, color=colour, alpha=0.6, lw=0)
        axis.plot(comparison.t_interval(), [row, row], color=colour, lw=2)
        axis.plot(comparison.mean, row, style_of(variant).marker, color=colour, ms=9, mew=0)
    axis.axvline(0, color=plots.INK, lw=0.8, zorder=0)
    axis.locator_params(axis="x", nbins=6)
    axis.set_yticks(range(len(comparisons)), map(printed_name, comparisons))
    axis.set(ylim=(len(comparisons) - 0.5, -0.7), xlabel=title)
    axis.spines[["top", "right"]].set_visible(False)


def mean_and_deviation(numbers: pd.DataFrame, decimals: dict[str, int]) -> pd.DataFrame:
    """Write mean ± standard deviation over seeds of some columns, and the number of seeds, a row for each variant.

    >>> rows = [{"variant": "erm", "seed": k, "accuracy": 90.0 + k} for k in range(3)]
    >>> mean_and_deviation(pd.DataFrame(rows), {"accuracy": 1}).loc["ERM", "accuracy"]
    '91.0 ± 1.0'
    """
    groups = numbers.groupby("variant")
    written = {"seeds": groups["seed"].nunique()}
    for column, digits in decimals.items():
        number = f"{{:.{digits}f}}".format
        spread = " ± " + groups[column].std().map(number)
        written[column] = groups[column].mean().map(number) + spread.where(groups.size() > 1, "")
    return pd.DataFrame(written).loc[in_order(numbers["variant"])].rename(printed_name).rename_axis(None)


def seed_by_seed(numbers: pd.DataFrame, column: str, baseline: str) -> pd.DataFrame:
    """Write the mean of a column, and its differences to a baseline, one for each seed that both have.

    Args:
        numbers: one row a run.
        column: of a metric.
        baseline: a variant with runs.

    Returns:
        A row for each variant, with the `seeds` it has, its `mean` over them, the difference of each seed, a dash where
        one of the two was not run, and the mean of these differences.

    Raises:
        ValueError: the baseline has no run.

    >>> rows = [("mixup", 0, 42.0), ("mixup", 1, 41.0), ("cutmix", 0, 41.5)]
    >>> numbers = pd.DataFrame(rows, columns=["variant", "seed", "accuracy"])
    >>> seed_by_seed(numbers, "accuracy", "mixup").loc["CutMix"].tolist()
    ['0', '41.50', '-0.50', '–', '-0.50']
    """
    wide = numbers.pivot(index="seed", columns="variant", values=column)
    if baseline not in wide:
        raise ValueError(f"baseline must be one of {', '.join(wide)}, got {baseline!r}{nearest(baseline, wide)}")
    differences = wide.sub(wide[baseline], axis=0).drop(columns=baseline).T
    written = {"seeds": wide.apply(lambda values: joined([f"{seed}" for seed in values.dropna().index]))}
    written["mean"] = wide.mean().map("{:.2f}".format)
    less = f"less {printed_name(baseline)}'s, "
    written |= {f"{less}seed {seed}": differences[seed].map("{:+.2f}".format) for seed in differences}
    written[f"{less}mean"] = differences.mean(axis=1).map("{:+.2f}".format)
    table = pd.DataFrame(written).replace({"+nan": "–"}).fillna("–")
    return table.loc[in_order(wide.columns)].rename(printed_name).rename_axis(None)


def verdict_table(table: pd.DataFrame, digits: int = 2) -> pd.DataFrame:
    """Write the rows of `verdicts.verdicts` for a reader, the verdict first, with as many decimals as asked for.

    Fewer than `MIN_SEEDS` seeds get no interval.
    """
    ends = ["low", "high", "bootstrap_low", "bootstrap_high", "detectable"]
    table = table.assign(**table[ends].where(table["seeds"] >= MIN_SEEDS))
    number = f"{{:+.{digits}f}}".format
    interval = [f"[{number(low)}, {number(high)}]" for low, high in zip(table["low"], table["high"])]
    bootstrap = zip(table["bootstrap_low"], table["bootstrap_high"])
    columns = {
        "verdict": table["verdict"],
        "seeds": table["seeds"],
        "advantage": table["difference"].map(number),
        "95 % interval (t)": interval,
        "bootstrap": [f"[{number(low)}, {number(high)}]" for low, high in bootstrap],
        "ahead": table["ahead"].astype(str) + " of " + table["seeds"].astype(str),
        "Holm's p": table["p_holm"].map("{:.3f}".format),
        "detectable": table["detectable"].map(f"{{:.{digits}f}}".format),
    }
    written = pd.DataFrame(columns, index=table.index).rename(printed_name)
    return written.replace({"nan": "–", "+nan": "–", "[+nan, +nan]": "–"})


def beside_baseline(numbers: pd.DataFrame, titles: dict[str, str], baseline: str) -> pd.DataFrame:
    """Write mean ± standard deviation of some columns, and each one's difference to a baseline with its 95 % interval.

    Args:
        numbers: one row a run.
        titles: of the columns, by name.
        baseline: a variant; without a run of it there are no differences.

    >>> rows = [("mixup", 0, 5.0), ("mixup", 1, 7.0), ("erm", 0, 4.0), ("erm", 1, 7.0)]
    >>> numbers = pd.DataFrame(rows, columns=["variant", "seed", "error"])
    >>> beside_baseline(numbers, {"error": "error (%)"}, "mixup").loc["ERM"].tolist()
    ['5.5 ± 2.1', '-0.5 [-6.9, +5.9]']
    """
    written = {}
    for column, title in titles.items():
        summary = summarize(numbers, column, baseline)
        spread = " ± " + summary["std"].map("{:.1f}".format).replace("nan", "–")
        written[title] = summary["mean"].map("{:.1f}".format) + spread
        if baseline in summary.index:
            ends = summary.agg(" [{0[low]:+.1f}, {0[high]:+.1f}]".format, axis=1).replace(" [+nan, +nan]", "")
            difference = summary["difference"].map("{:+.1f}".format) + ends
            written[f"less {printed_name(baseline)}'s {title}"] = difference.where(summary["difference"].notna(), "–")
    return pd.DataFrame(written).loc[in_order(numbers["variant"])].rename(printed_name).rename_axis(None)


def in_points(compared: Comparison) -> str:
    """Write a mean difference in points, its 95 % interval from `MIN_SEEDS` seeds on, and on how many it is above zero.

    >>> in_points(Comparison(pd.Series([2.0, -0.5]).to_numpy()))
    '+0.8 points, ahead on 1 of 2 seeds'
    >>> in_points(Comparison(pd.Series([2.0, -0.5, 1.5]).to_numpy()))
    '+1.0 points [-2.3, +4.3], ahead on 2 of 3 seeds'
    """
    ahead = f"ahead on {compared.ahead} of {counted(compared.seeds, 'seed')}"
    return f"{compared.mean:+.1f} points{in_brackets(compared)}, {ahead}"


def in_brackets(compared: Comparison) -> str:
    """Write the 95 % interval of a difference behind a space, from `MIN_SEEDS` seeds on; else nothing.

    >>> in_brackets(Comparison(pd.Series([2.0, -0.5, 1.5]).to_numpy()))
    ' [-2.3, +4.3]'
    """
    low, high = compared.t_interval()
    return f" [{low:+.1f}, {high:+.1f}]" if compared.seeds >= MIN_SEEDS and low < high else ""


def by_interval(comparisons: dict[str, Comparison], above: str, below: str, between: str) -> pd.Series:
    """Choose a word for each variant by where the 95 % interval of its difference lies.

    Args:
        comparisons: by variant.
        above: the word where the whole interval is above zero.
        below: the word where it is below zero.
        between: the word where it holds zero, or where there is none.

    >>> rows = [("a", 0, 5.0), ("a", 1, 5.1), ("b", 0, 2.0), ("b", 1, 4.0), ("c", 0, 3.0), ("c", 1, 3.0)]
    >>> numbers = pd.DataFrame(rows, columns=["variant", "seed", "error"])
    >>> by_interval({v: compare(numbers, v, "c", "error") for v in "ab"}, "more", "less", "either").to_dict()
    {'a': 'more', 'b': 'either'}
    """
    words = {}
    for variant, compared in comparisons.items():
        low, high = compared.t_interval()
        words[variant] = above if low > 0 else below if high < 0 else between
    return pd.Series(words, dtype=str)


def sentence(claim: str, verdicts: pd.Series) -> str:
    """Say for which methods a claim holds, for which it does not and for which it is open, the largest group last.

    Where all methods are forms of MultiMix, those of the largest group are counted and not named.

    Args:
        claim: what the verdicts are on.
        verdicts: a word for each variant, at least one.

    >>> sentence("Tighter", pd.Series({"multimix": "holds", "erm": "open", "cutmix": "holds"}))
    'Tighter: open for ERM; holds for MultiMix and CutMix.'
    >>> sentence("Tighter", pd.Series({"multimix": "open", "multimix-total": "holds", "dense_multimix": "open"}))
    'Tighter: holds for MultiMix (total α); open for the other two forms of MultiMix.'
    """
    words = verdicts.groupby(verdicts.to_numpy(), sort=False)
    groups = sorted(words, key=lambda group: (len(group[1]), group[0] == OPEN))
    parts = [f"{word} for {joined([printed_name(variant) for variant in of.index])}" for word, of in groups]
    word, largest = groups[-1]
    if len(largest) > 1 and all(known_method(variant) in FORMS for variant in verdicts.index):
        others = f"{word} for the other {in_words(len(largest))} forms of MultiMix"
        every = f"{word} for {all_forms(str(word), len(largest))} of MultiMix"
        parts[-1] = others if len(groups) > 1 else every
    return f"{claim}: {'; '.join(parts)}."


def answer(sentences: list[str], best: str | None, verdicts: list[pd.Series], results: str, trained: str = "") -> str:
    """Write the answer that opens a chapter, in Markdown: a paragraph for each sentence, then what to know about them.

    Args:
        sentences: on the forms of MultiMix; none where nothing can be compared.
        best: the other method that was chosen by validation accuracy, None where none was.
        verdicts: what the sentences say, a word for each variant.
        results: where the runs were read.
        trained: what `trained_for` says of them.

    >>> print(answer(["Tighter: open for ERM."], "mixup", [pd.Series({"erm": "open"})], "book/results/digits"))
    **Answer.** Tighter: open for ERM.
    <BLANKLINE>
    Of the other methods mixup has the highest mean validation accuracy. Open means that the recorded seeds do not tell.
    """
    sentences = sentences or [f"None: {results} has no form of MultiMix beside another method."]
    notes = [trained] if trained else []
    notes += [f"Of the other methods {printed_name(best)} has the highest mean validation accuracy."] if best else []
    if any(OPEN in set(of_variants) for of_variants in verdicts):
        notes.append("Open means that the recorded seeds do not tell.")
    return "**Answer.** " + "\n\n".join([*sentences, " ".join(notes)])


def decided(family: pd.DataFrame, beside: str) -> str:
    """Say which claims hold for which forms of MultiMix and which do not, and count the verdicts that are open.

    Args:
        family: of `verdicts.judge`, with a row for each claim and form; claims are written as it names them.
        beside: what the forms are held against.

    >>> verdict = pd.Series({("sharper", "multimix"): "holds", ("sharper", "dense_multimix"): "open"})
    >>> decided(pd.DataFrame({"verdict": verdict, "seeds": 5}), "mixup")
    'Against mixup, *sharper* holds for MultiMix; one of two verdicts is open.'
    """
    verdicts, forms = family["verdict"], family.index.get_level_values(1).nunique()
    parts = []
    for verdict, plural, further in ((HOLDS, "hold", ", "), (FAILS, "do not hold", ", nor ")):
        claims_of = {}  # those of the same forms are said together
        for claim, rows in verdicts[verdicts == verdict].groupby(level=0, sort=False):
            claims_of.setdefault(tuple(rows.index.get_level_values(1)), []).append(f"*{claim}*")
        said = []
        for of, claims in claims_of.items():
            says = "" if said else f" {plural if len(claims) > 1 else verdict}"
            whom = all_forms(verdict, forms) if len(of) == forms > 1 else joined([printed_name(form) for form in of])
            said.append(f"{joined(claims)}{says} for {whom}")
        parts += [further.join(said)] if said else []
    if family["seeds"].max() < MIN_SEEDS:
        parts.append(f"fewer than {in_words(MIN_SEEDS)} seeds decide nothing")
    return f"Against {beside}, {'; '.join([*parts, _undecided(verdicts)])}."


def _undecided(verdicts: pd.Series) -> str:
    total, still, untestable = len(verdicts), sum(verdicts == OPEN), sum(verdicts == UNTESTABLE)
    if still == total:
        every = "both" if total == 2 else f"all {in_words(total)}"
        return f"{every} verdicts are open" if total > 1 else "the only verdict is open"
    of_all = f"{in_words(still)} of {in_words(total)} verdicts" if still else "no verdict"
    said = f"{of_all} {'are' if still > 1 else 'is'} open"
    return f"{said} and {in_words(untestable)} {UNTESTABLE}" if untestable else said


def all_forms(verdict: str, count: int) -> str:
    """Name all forms of MultiMix after a verdict: what does not hold for *any* could still hold for some of *all*.

    >>> all_forms("holds", 4), all_forms("does not hold", 4), all_forms("does not hold", 2)
    ('all four forms', 'any of the four forms', 'either form')
    """
    if verdict.startswith(("not ", "does not ")):
        return "either form" if count == 2 else f"any of the {in_words(count)} forms"
    return "both forms" if count == 2 else f"all {in_words(count)} forms"


def in_words(count: int) -> str:
    """Write a count as prose does: up to ten in words.

    >>> in_words(0), in_words(6), in_words(14)
    ('none', 'six', '14')
    """
    return SMALL_NUMBERS[count] if count < len(SMALL_NUMBERS) else f"{count}"


def plural(count: int, noun: str) -> str:
    """Return a noun in the form that stands behind a count."""
    return noun if count == 1 else f"{noun}s"


def counted(count: int, noun: str) -> str:
    """Write a count in digits, and the noun behind it.

    >>> counted(1, "seed"), counted(4000, "step")
    ('1 seed', '4,000 steps')
    """
    return f"{count:,} {plural(count, noun)}"


def joined(names: list[str]) -> str:
    """Join names as a sentence does.

    >>> joined(["ERM", "mixup", "CutMix"]), joined(["ERM"]), joined([])
    ('ERM, mixup and CutMix', 'ERM', '')
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
