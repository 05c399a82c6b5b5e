"""The landing page's generated parts: what the book found, in sentences and pictures made from records alone.

`tools.site` writes them beside the prose; `book/intro.md` includes them.
"""

import json
from pathlib import Path

import pandas as pd

from mmbook import interactive, ledger, schedules
from mmbook.comparison import all_forms, best_other, forms_and_others, in_words, joined, plural
from mmbook.names import printed_name
from mmbook.provenance import fold_of_records, record_files
from mmbook.verdicts import FAILS, HOLDS, OPEN, judge
from tools.results import results_table

# Claims that are corrected together, as in the chapter that each sentence links to.
OF_ACCURACY, OF_EMBEDDINGS = {"accuracy": ("accuracy", 1)}, {m: (m, -1) for m in ("alignment", "uniformity")}
BASELINE, METHOD, TOTAL = "mixup", "multimix", "multimix-total"
SHOWN = (BASELINE, METHOD, TOTAL, "dense_multimix", "dense_multimix-total")  # at first; ERM would set the scale
CHART_FROM = 400  # steps: differences of twenty points would hide those of one


def write_parts(folder: Path, results: Path) -> None:
    """Write the parts that the landing page includes.

    Args:
        folder: where they go.
        results: the folder of the grid `digits` in the ledger; the ledger's other grids lie beside it.
    """
    root = results.resolve().parent
    runs, _ = schedules.scheduled_runs(str(root), "digits")
    photographs, _ = schedules.scheduled_runs(str(root), "cifar100")
    scheduled = [run for of in schedules.GRIDS for run in schedules.scheduled_records(str(root), of)[0]]
    lengths = runs.groupby("variant")["steps"].transform("nunique")
    several = runs[(lengths >= interactive.LINE) & (runs["steps"] >= CHART_FROM)]
    chart = interactive.schedule_chart(
        schedules.differences(several, BASELINE),
        schedules.accuracies(several),
        baseline=BASELINE,
        shown=[variant for variant in SHOWN if variant in set(several["variant"])],
        height=190,
    )
    cost = json.loads((root / "cost" / "training-cpu-float32-2.json").read_text(encoding="utf-8"))
    parts = {
        "results.md": results_table(ledger.collect(results)),
        "findings.md": findings(runs, photographs, cost),
        "simplex.html": interactive.simplex(),
        "schedule.html": chart,
        "records.html": fold_of_records(record_files(scheduled)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in parts.items():
        (folder / name).write_text(text, encoding="utf-8")


def findings(runs: pd.DataFrame, photographs: pd.DataFrame, cost: dict) -> str:
    """Say what was found about accuracy, embeddings and cost, each in a sentence or two, as Markdown.

    Args:
        runs: of every length on digits, as `schedules.scheduled_runs` returns them.
        photographs: the same on CIFAR-100.
        cost: what `make bench` recorded of training steps.
    """
    judged = _most_recorded(runs)
    return "\n\n".join([_on_accuracy(runs, judged, photographs), _on_embeddings(judged), _on_cost(cost)]) + "\n"


def _most_recorded(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of the schedule on which the method and the baseline share most seeds; of several, the longest."""
    seeds = runs[runs["variant"].isin([METHOD, BASELINE])].groupby(["steps", "variant"])["seed"].nunique().unstack()
    shared = seeds.min(axis=1, skipna=False)
    return runs[runs["steps"] == shared[shared == shared.max()].index.max()]


def _on_accuracy(runs: pd.DataFrame, judged: pd.DataFrame, photographs: pd.DataFrame) -> str:
    ours = _differences(runs)
    of_digits = schedules.standing(ours[ours["steps"] <= judged["steps"].iloc[0]], BASELINE)
    return " ".join(
        [
            f"**Accuracy.** On digits with 100 labels MultiMix is {of_digits}; *more accurate than "
            f"{printed_name(BASELINE)}* {_says(_verdict_on_accuracy(judged, BASELINE)['verdict'])} "
            "([how long must one train?](../notebooks/07-how-long.ipynb)).",
            *_against_best_other(judged),
            _on_photographs(photographs),
        ]
    )


def _verdict_on_accuracy(judged: pd.DataFrame, other: str) -> pd.Series:
    return judge(judged, forms_and_others(judged)[0], other, OF_ACCURACY).loc[("accuracy", METHOD)]


def _against_best_other(judged: pd.DataFrame) -> list[str]:
    best = best_other(judged)
    if best is None or best == BASELINE:
        return []
    found = _verdict_on_accuracy(judged, best)
    low, high = (f"{found[end]:+.1f}".replace("-", "−") for end in ("low", "high"))
    return [
        f"It is then {_gap(found['difference'], best)} ({low} to {high}), the best other method by validation: "
        f"*more accurate* {_says(found['verdict'])} ([comparing methods](../notebooks/06-compare-methods.ipynb))."
    ]


def _on_photographs(photographs: pd.DataFrame) -> str:
    """Where both readings of α stand after the longest schedule."""
    found = schedules.differences(photographs, BASELINE).set_index("variant")
    found = found[found["steps"] == found.loc[[METHOD], "steps"].max()]
    gaps = [f"it is {_gap(found.loc[METHOD, 'difference'], BASELINE)}"]
    if TOTAL in found.index:
        gaps.append(f"with *total α* {_gap(found.loc[TOTAL, 'difference'], BASELINE)}")
    steps, seeds = (int(found.loc[METHOD, name]) for name in ("steps", "seeds"))  # a row of both is one of floats
    return (
        f"On [CIFAR-100](../notebooks/12-cifar100.ipynb) with 100 labels a class, after {steps:,} steps and by "
        f"{in_words(seeds)} {plural(seeds, 'seed')}, {' and '.join(gaps)}."
    )


def _gap(difference: float, other: str) -> str:
    return f"{abs(difference):.1f} points {'ahead of' if difference > 0 else 'behind'} {printed_name(other)}"


def _differences(runs: pd.DataFrame) -> pd.DataFrame:
    """The method less the baseline at every length."""
    return schedules.differences(runs, BASELINE).query("variant == @METHOD")


def _on_embeddings(judged: pd.DataFrame) -> str:
    family = judge(judged, forms_and_others(judged)[0], BASELINE, OF_EMBEDDINGS)
    steps, seeds = judged["steps"].iloc[0], family.loc[("alignment", METHOD), "seeds"]

    def measured(metric: str, better: str, worse: str) -> tuple[str, str]:
        row = family.loc[(metric, METHOD)]
        ahead, ends = row["difference"] > 0, sorted(abs(row[end]) for end in ("low", "high"))
        crosses = row["low"] < 0 < row["high"]
        interval = "" if crosses else f", 95 % interval {ends[0]:.3f} to {ends[1]:.3f}"
        way = "lower" if ahead else "higher"
        return better if ahead else worse, f"({metric} {way} by {abs(row['difference']):.3f}{interval})"

    classes, alignment = measured("alignment", "tighter", "looser")
    spread, uniformity = measured("uniformity", "more evenly spread", "less evenly spread")
    sentences = [
        f"**Embeddings.** After {steps:,} steps on digits ({seeds} seeds) MultiMix's classes are {classes} than "
        f"mixup's {alignment} and its embeddings {spread} {uniformity}. "
        f"*Tighter* {_of_forms(family.loc['alignment', 'verdict'])}, *more evenly spread* "
        f"{_of_forms(family.loc['uniformity', 'verdict'])} "
        "([the embedding space](../notebooks/08-embedding-space.ipynb))."
    ]
    best = best_other(judged)
    if best and best != BASELINE:
        beside = judge(judged, forms_and_others(judged)[0], best, OF_EMBEDDINGS)["verdict"]
        sentences.append(
            f"Against {printed_name(best)} *tighter* {_of_forms(beside['alignment'])}, and *more evenly spread* "
            f"{_of_forms(beside['uniformity'])}."
        )
    return " ".join(sentences)


def _of_forms(verdicts: pd.Series) -> str:
    """Say for how many forms of MultiMix a claim holds, does not hold and is open.

    >>> _of_forms(pd.Series(["open", "holds", "open"]))
    "holds for one of MultiMix's forms and is open for two"
    >>> _of_forms(pd.Series(["does not hold"] * 6))
    'does not hold for any of the six forms of MultiMix'
    >>> _of_forms(pd.Series(["open", "holds", "does not hold"]))
    "holds for one of MultiMix's forms, does not hold for one and is open for one"
    """
    counts = {verdict: int((verdicts == verdict).sum()) for verdict in (HOLDS, FAILS, OPEN)}
    if len(set(verdicts)) == 1:
        verdict, count = verdicts.iloc[0], len(verdicts)
        return _says(verdict) + (f" for {all_forms(verdict, count)} of MultiMix" if count > 1 else "")
    said = [f"{_says(verdict)} for {in_words(count)}" for verdict, count in counts.items() if count]
    said[0] += " of MultiMix's forms"
    return joined(said)


def _on_cost(cost: dict) -> str:
    steps = cost["preactresnet18"]
    multimix, dense = (steps[name]["ratio"] for name in ("multimix", "dense_multimix"))
    return (
        f"**Cost.** On two cores of a processor a training step of PreActResNet-18 takes {multimix:.2f} times as long "
        f"with MultiMix as without, and {dense:.2f} times with Dense MultiMix; "
        "[cost](../notebooks/13-cost.ipynb) has that of a GPU, where it is more."
    )


def _says(verdict: str) -> str:
    return f"is {verdict}" if verdict == OPEN else verdict
