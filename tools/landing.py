"""The landing page's generated parts: what the book found, in sentences and pictures made from records alone.

`tools.site` writes them beside the prose; `book/intro.md` includes them.
"""

import json
from pathlib import Path

import pandas as pd

from mmbook import interactive, ledger, schedules
from mmbook.comparison import all_forms, forms_and_others, in_words
from mmbook.verdicts import FAILS, HOLDS, OPEN, judge
from tools.results import results_table

# Claims that are corrected together, as in the chapter that each sentence links to.
OF_ACCURACY, OF_EMBEDDINGS = {"accuracy": ("accuracy", 1)}, {m: (m, -1) for m in ("alignment", "uniformity")}
BASELINE, METHOD = "mixup", "multimix"


def write_parts(folder: Path, results: Path) -> None:
    """Write the parts that the landing page includes.

    Args:
        folder: where they go.
        results: the folder of the grid `digits` in the ledger; the ledger's other grids lie beside it.
    """
    root = results.resolve().parent
    runs, _ = schedules.scheduled_runs(str(root), "digits")
    photographs, _ = schedules.scheduled_runs(str(root), "cifar100")
    lengths = runs.groupby("variant")["steps"].transform("nunique")
    several = runs[lengths >= interactive.LINE]
    chart = interactive.schedule_chart(
        schedules.differences(several, BASELINE), schedules.accuracies(several), baseline=BASELINE, height=190
    )
    cost = json.loads((root / "cost" / "training-cpu-float32-2.json").read_text(encoding="utf-8"))
    parts = {
        "results.md": results_table(ledger.collect(results)),
        "findings.md": findings(runs, photographs, cost),
        "simplex.html": interactive.simplex(),
        "schedule.html": chart,
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
    forms, _ = forms_and_others(judged)
    accuracy, embeddings = (judge(judged, forms, BASELINE, claims) for claims in (OF_ACCURACY, OF_EMBEDDINGS))
    sentences = [_on_accuracy(runs, judged, accuracy, photographs), _on_embeddings(judged, embeddings)]
    return "\n\n".join([*sentences, _on_cost(cost)]) + "\n"


def _most_recorded(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of the schedule on which the method and the baseline share most seeds; of several, the longest."""
    seeds = runs[runs["variant"].isin([METHOD, BASELINE])].groupby(["steps", "variant"])["seed"].nunique().unstack()
    shared = seeds.min(axis=1, skipna=False)
    return runs[runs["steps"] == shared[shared == shared.max()].index.max()]


def _on_accuracy(runs: pd.DataFrame, judged: pd.DataFrame, family: pd.DataFrame, photographs: pd.DataFrame) -> str:
    of_digits = schedules.standing(_differences(runs).query("steps <= @judged.steps.iloc[0]"), BASELINE)
    of_photographs = schedules.standing(_differences(photographs), BASELINE)
    verdict = _says(family.loc[("accuracy", METHOD), "verdict"])
    return (
        f"**Accuracy.** On digits with 100 labels MultiMix is {of_digits}. *More accurate* {verdict} "
        "([how long must one train?](../notebooks/07-how-long)). On [CIFAR-100](../notebooks/12-cifar100) with 100 "
        f"labels a class it is {of_photographs}."
    )


def _differences(runs: pd.DataFrame) -> pd.DataFrame:
    """The method less the baseline at every length."""
    return schedules.differences(runs, BASELINE).query("variant == @METHOD")


def _on_embeddings(judged: pd.DataFrame, family: pd.DataFrame) -> str:
    means = judged.groupby("variant")[["alignment", "uniformity"]].mean()

    def measured(metric: str, better: str, worse: str) -> tuple[str, str]:
        ours, theirs = (f"{means.loc[variant, metric]:.2f}".replace("-", "−") for variant in (METHOD, BASELINE))
        ahead = family.loc[(metric, METHOD), "difference"] > 0
        return better if ahead else worse, f"({metric} {ours} against {theirs})"

    classes, alignment = measured("alignment", "tighter", "looser")
    spread, uniformity = measured("uniformity", "more evenly spread", "less evenly spread")
    return (
        f"**Embeddings.** MultiMix's classes are {classes} than mixup's {alignment} and its embeddings {spread} "
        f"{uniformity}. *Tighter* {_of_forms(family.loc['alignment', 'verdict'])}, *more evenly spread* "
        f"{_of_forms(family.loc['uniformity', 'verdict'])} ([the embedding space](../notebooks/08-embedding-space))."
    )


def _of_forms(verdicts: pd.Series) -> str:
    """Say for how many forms of MultiMix a claim holds, does not hold and is open.

    >>> _of_forms(pd.Series(["open", "holds", "open"]))
    'holds for one of its forms and is open for two'
    >>> _of_forms(pd.Series(["does not hold"] * 6))
    'does not hold for any of the six forms of MultiMix'
    """
    counts = {verdict: int((verdicts == verdict).sum()) for verdict in (HOLDS, FAILS, OPEN)}
    if len(set(verdicts)) == 1:
        verdict, count = verdicts.iloc[0], len(verdicts)
        return _says(verdict) + (f" for {all_forms(verdict, count)} of MultiMix" if count > 1 else "")
    said = [f"{_says(verdict)} for {in_words(count)}" for verdict, count in counts.items() if count]
    said[0] += " of its forms"
    return " and ".join(said)


def _on_cost(cost: dict) -> str:
    steps = cost["preactresnet18"]
    multimix, dense = (steps[name]["ratio"] for name in ("multimix", "dense_multimix"))
    return (
        f"**Cost.** On a processor a training step of PreActResNet-18 takes {multimix:.2f} times as long with MultiMix "
        f"as without, and {dense:.2f} times with Dense MultiMix ([cost](../notebooks/13-cost))."
    )


def _says(verdict: str) -> str:
    return f"is {verdict}" if verdict == OPEN else verdict
