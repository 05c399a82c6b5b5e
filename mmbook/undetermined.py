"""What the papers' text that we hold leaves open: settings, where they stand in the code, and how much they matter."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes

from mmbook import grids, plots
from mmbook.comparison import in_brackets
from mmbook.names import FORMS, known_method, printed_name
from mmbook.notebook import project_root
from mmbook.verdicts import MIN_SEEDS, Comparison
from mmlib.experiments.runs import RunRecord

GRIDS = ("digits", "ablations", "schedules", "tuning", "compared")


class Setting(NamedTuple):
    """A setting that is open.

    Args:
        mark: R for the published recipe as we know it, C for our choice.
        what: what is open, and what stands there now.
        file: below `mmlib/`.
        name: in the file.
        grid: where it is measured; empty where no run varies it.
        ours: the grid's variant with our value.
        others: its variants with other values, separated by spaces.
    """

    mark: str
    what: str
    file: str
    name: str
    grid: str = ""
    ours: str = ""
    others: str = ""


SETTINGS = (
    Setting(
        "R",
        "n = 1000 mixtures a mini-batch",
        "experiments/methods/multimix.py",
        "num_mixtures",
        "ablations",
        "multimix",
        "n-1 n-10 n-100 n-10000",
    ),
    Setting(
        "R",
        "α ~ U(0.5, 2), of each example",
        "experiments/methods/multimix.py",
        "alpha",
        "ablations",
        "multimix",
        "alpha-0.1 alpha-10",
    ),
    Setting(
        "C",
        "α drawn for every mixture, not fixed",
        "sampling.py",
        "iter_mixing_weights",
        "ablations",
        "multimix",
        "alpha-1",
    ),
    Setting(
        "C",
        "α drawn for every mixture, not once a mini-batch",
        "sampling.py",
        "iter_mixing_weights",
        "ablations",
        "multimix",
        "one_alpha",
    ),
    Setting(
        "R",
        "α read as each example's, not as the whole mixture's",
        "losses.py",
        "alpha_is_total",
        "digits",
        "multimix",
        "multimix-total",
    ),
    Setting(
        "R",
        "embeddings interpolated on half of the mini-batches",
        "recipe.py",
        "probability",
        "ablations",
        "multimix",
        "probability-0 probability-1",
    ),
    Setting(
        "C",
        "input mixup with Beta(1, 1) on the other half",
        "recipe.py",
        "mixup_alpha",
        "ablations",
        "multimix",
        "mixup_alpha-0.2",
    ),
    Setting(
        "R",
        "attention: GAP, ReLU and ℓ1",
        "attention.py",
        "attention_map",
        "ablations",
        "dense_multimix",
        "cam-relu gap-softmax cam-softmax uniform",
    ),
    Setting(
        "C", "no gradient through attention", "losses.py", "detach_attention", "ablations", "dense_multimix", "learnt"
    ),
    Setting(
        "C",
        "of a vision transformer the mean of the patch tokens, no class token",
        "experiments/models/vit.py",
        "vision_transformer",
    ),
    Setting(
        "C", "unweighted λ where attention leaves nothing to divide by", "functional.py", "dense_mixed_cross_entropy"
    ),
    Setting("C", "uniform attention for an image whose scores are all zero", "attention.py", "attention_map"),
    Setting(
        "C",
        "teacher's share γ = 0.5",
        "experiments/methods/distillation.py",
        "gamma",
        "ablations",
        "multimix_distill",
        "gamma-0.1 gamma-0.9",
    ),
    Setting(
        "C",
        "teacher's decay up to 0.999",
        "experiments/methods/distillation.py",
        "decay",
        "ablations",
        "multimix_distill",
        "decay-0.9",
    ),
    Setting("C", "decay (1 + t) / (10 + t) at first", "experiments/methods/distillation.py", "update"),
    Setting(
        "C",
        "teacher averages BatchNorm's statistics and predicts in evaluation mode",
        "experiments/methods/distillation.py",
        "Teacher",
    ),
    Setting("C", "teacher sees the same view of an image", "experiments/methods/distillation.py", "targets"),
    Setting(
        "C",
        "teacher's predictions of a pair mixed like labels where images are mixed (here together with mixtures')",
        "experiments/methods/distillation.py",
        "targets",
        "ablations",
        "multimix_distill",
        "at_mixture-0.5",
    ),
    Setting(
        "R",
        "epochs: 2,000 of two mini-batches on digits",
        "experiments/training/config.py",
        "epochs",
        "schedules",
        "multimix",
        "multimix-epochs50 multimix-epochs200 multimix-epochs500 multimix-epochs1000",
    ),
    Setting(
        "R",
        "learning rate 0.1",
        "experiments/training/config.py",
        "lr",
        "tuning",
        "multimix",
        "multimix-lr0.03 multimix-lr0.3",
    ),
    Setting(
        "R",
        "weight decay 1e-4",
        "experiments/training/config.py",
        "weight_decay",
        "ablations",
        "multimix",
        "weight_decay-5e-4",
    ),
    Setting(
        "R",
        "128 images a mini-batch; 50 on digits, others at as many steps",
        "experiments/data/sources.py",
        "batch_size",
        "ablations",
        "multimix",
        "multimix-m10 multimix-m25 multimix-m100",
    ),
    Setting("R", "momentum and augmentation of the long schedule", "experiments/training/config.py", "momentum"),
    Setting(
        "C",
        "cosine schedule on the short ones",
        "experiments/training/optim.py",
        "learning_rate",
        "ablations",
        "multimix",
        "schedule-steps",
    ),
    Setting(
        "R",
        "vision transformers by AdamW, with 5 epochs of warm-up and no decay of biases, norms and places",
        "experiments/training/optim.py",
        "make_optimizer",
    ),
    Setting("C", "warm-up as a factor of the schedule, from 0", "experiments/training/config.py", "warmup_epochs"),
    Setting(
        "R",
        "Manifold mixup: Beta(2, 2), after the input or stage 1 or 2",
        "experiments/methods/manifold_mixup.py",
        "stages",
        "compared",
        "manifold_mixup",
        "manifold_mixup-alpha-1 manifold_mixup-stages-1",
    ),
    Setting(
        "C",
        "Manifold mixup: cross-entropy, where the release has a binary cross-entropy per class",
        "experiments/methods/manifold_mixup.py",
        "ManifoldMixup",
    ),
    Setting(
        "R",
        "CutMix: Beta(1, 1), on half of the mini-batches",
        "experiments/methods/cutmix.py",
        "probability",
        "compared",
        "cutmix",
        "cutmix-probability-1",
    ),
    Setting(
        "R", "CutMix: half a side of the box rounded down, one box for the mini-batch", "transforms.py", "cutmix_box"
    ),
    Setting(
        "R",
        "AlignMixup: Beta(2, 2), aligned on half of the mini-batches (Sinkhorn's constants not measured)",
        "experiments/methods/alignmixup.py",
        "alpha",
        "compared",
        "alignmixup",
        "alignmixup-alpha-1 alignmixup-probability-1",
    ),
    Setting(
        "R",
        "Puzzle Mix: its constants, of which smooth masks (β) and the price of transport (ξ) were left out",
        "experiments/methods/puzzlemix.py",
        "beta",
        "compared",
        "puzzlemix",
        "puzzlemix-beta-0 puzzlemix-xi-0",
    ),
    Setting(
        "C",
        "Puzzle Mix: both problems solved exactly, where the paper uses swaps and a heuristic",
        "experiments/methods/puzzlemix.py",
        "minimize_energy_exact",
    ),
    Setting(
        "C",
        "Puzzle Mix: all regions of an image are permuted, where the release moves those that are seen",
        "experiments/methods/puzzlemix.py",
        "transport",
    ),
    Setting(
        "C",
        "Puzzle Mix: cross-entropy instead of one per class, and no adversarial noise",
        "experiments/methods/puzzlemix.py",
        "PuzzleMix",
    ),
    Setting(
        "R",
        "Co-Mixup: its constants, of which diverse mixtures (γ) were left out",
        "experiments/methods/comixup.py",
        "GROUP_SIZE",
        "compared",
        "comixup",
        "comixup-gamma-0",
    ),
    Setting(
        "C",
        "Co-Mixup: the images' own loss has weight 1, where the release amounts to 1.25 to 1.94",
        "experiments/methods/comixup.py",
        "clean",
        "compared",
        "comixup",
        "comixup-clean-0",
    ),
    Setting(
        "C",
        "Co-Mixup: expansion moves, solved exactly, where the release swaps by graph cuts",
        "experiments/methods/comixup.py",
        "minimize_energy_expansion",
    ),
    Setting("C", "Co-Mixup: six moves per mixture and pass", "experiments/methods/comixup.py", "MAX_MOVES"),
    Setting(
        "C",
        "Co-Mixup: no bonus for halves, no change of equal mixtures, cross-entropy instead of one per class",
        "experiments/methods/comixup.py",
        "CoMixup",
    ),
    Setting(
        "R",
        "ζ-mixup: γ = 2.8",
        "experiments/methods/zeta_mixup.py",
        "gamma",
        "compared",
        "zeta_mixup",
        "zeta_mixup-gamma-1.8",
    ),
    Setting("R", "ζ-mixup: an example has rank 1 in its own mixture", "transforms.py", "zeta_weights"),
    Setting("C", "kNN accuracy: k = 20, cosine, ties to the nearest", "metrics.py", "k"),
    Setting(
        "R",
        "networks without batch normalisation and ReLU after the last stage",
        "experiments/models/preact_resnet.py",
        "preact_resnet",
    ),
    Setting("C", "attacks start at the image, 10 steps, at six radii", "experiments/evaluation/robustness.py", "pgd"),
    Setting("C", "PGD's step is half the radius on the curve of radii", "experiments/evaluation/suite.py", "EPSILONS"),
    Setting(
        "C",
        "area under precision and recall by the trapezoidal rule; images of other sets resized bilinearly",
        "experiments/evaluation/ood.py",
        "aupr_in",
    ),
    Setting("R", "random resized crop and flip of large images", "experiments/data/streaming.py", "RandomResizedCrop"),
    Setting(
        "C",
        "ImageNet's mean and standard deviation for every folder of images",
        "experiments/data/streaming.py",
        "IMAGENET_MOMENTS",
    ),
)


def records() -> dict[str, list[RunRecord]]:
    """Read the records of the grids that vary settings."""
    return {grid: grids.grid_records(grid).records for grid in GRIDS}


def differences(setting: Setting, found: dict[str, list[RunRecord]], least_seeds: int = 2) -> dict[str, Comparison]:
    """Compare each other value with ours by test accuracy, in points, seed by seed.

    Args:
        found: records by grid.
        least_seeds: with fewer seeds a value is left out.
    """
    of_grid = {(run.variant, run.seed): run.metrics["accuracy"] for run in found.get(setting.grid, [])}
    accuracy = pd.Series(of_grid, dtype=float)
    compared = {}
    for other in setting.others.split():
        if {other, setting.ours} <= set(accuracy.index.get_level_values(0)):
            difference = (accuracy[other] - accuracy[setting.ours]).dropna()
            if len(difference) >= least_seeds:
                compared[other] = Comparison(difference.to_numpy())
    return compared


def sensitivity(setting: Setting, found: dict[str, list[RunRecord]], least_seeds: int = 2) -> dict[str, str]:
    """Write the `differences` of a setting: mean, Student's 95 % interval from `MIN_SEEDS` seeds on, and the seeds."""
    return {
        other: f"{compared.mean:+.1f}{in_brackets(compared)} ({compared.seeds})"
        for other, compared in differences(setting, found, least_seeds).items()
    }


def own_differences(found: dict[str, list[RunRecord]], least_seeds: int = MIN_SEEDS) -> dict[str, Comparison]:
    """The `differences` of MultiMix's own settings, by printed name, the largest first; lengths of training are none.

    Args:
        found: records by grid.
        least_seeds: with fewer seeds a value is left out.
    """
    every = {
        printed_name(other): compared
        for setting in SETTINGS
        if _is_own(setting)
        for other, compared in differences(setting, found, least_seeds).items()
    }
    return dict(sorted(every.items(), key=lambda named: -abs(named[1].mean)))


def own_records(found: dict[str, list[RunRecord]]) -> list[RunRecord]:
    """The records of MultiMix's own settings, with our value and with others, of which `own_differences` is made."""
    wanted = {
        (setting.grid, variant)
        for setting in SETTINGS
        if _is_own(setting)
        for variant in (setting.ours, *setting.others.split())
    }
    return [run for grid, of in found.items() for run in of if (grid, run.variant) in wanted]


def _is_own(setting: Setting) -> bool:
    """Whether it is one of MultiMix's and no length of training."""
    return known_method(setting.ours) in FORMS and setting.grid != "schedules"


def draw_differences(axis: Axes, compared: dict[str, Comparison]) -> None:
    """Draw a row for each value: its mean difference with its 95 % interval, on the axis of `plots.scale_points`."""
    for row, of in enumerate(compared.values()):
        axis.plot(of.t_interval(), [row, row], color=plots.INK, lw=1.5)
        axis.plot(of.mean, row, "o", color=plots.INK, ms=5)
    axis.axvline(0, color=plots.INK, lw=0.8, zorder=0)
    plots.scale_points(axis.xaxis, highest=5)
    axis.set_yticks(range(len(compared)), list(compared))
    axis.set(ylim=(len(compared) - 0.5, -0.7), xlabel="test accuracy less ours (points)")
    axis.spines[["top", "right"]].set_visible(False)


def sensitivities(found: dict[str, list[RunRecord]], least_seeds: int = 2) -> pd.DataFrame:
    """A row for each setting: its mark, its sensitivity by the printed name of the value, its place in the code."""
    rows = []
    for setting in SETTINGS:
        measured = sensitivity(setting, found, least_seeds)
        shown = "; ".join(f"{_value(setting, other)} {says}" for other, says in measured.items())
        place = f"{setting.file}, {setting.name}"
        rows.append({"what": setting.what, "difference (points)": shown or "not measured", "where": place})
    return pd.DataFrame(rows, index=pd.Index([setting.mark for setting in SETTINGS], name="mark"))


def _value(setting: Setting, variant: str) -> str:
    """The other value's printed name, without that of the method that both share."""
    name = printed_name(variant)
    return name.removeprefix(f"{printed_name(setting.ours)} (").removesuffix(")") if "(" in name else name


def misplaced() -> list[str]:
    """Names of settings that do not stand in their file."""
    package = project_root() / "mmlib"
    return [
        setting.name for setting in SETTINGS if setting.name not in (package / setting.file).read_text(encoding="utf-8")
    ]


def unlisted() -> list[str]:
    """Files of `mmlib` that say "our choice" or "published recipe" and have no setting in the list."""
    package = project_root() / "mmlib"
    marked = [path for path in package.rglob("*.py") if _is_marked(path)]
    return sorted({path.relative_to(package).as_posix() for path in marked} - {setting.file for setting in SETTINGS})


def _is_marked(path: Path) -> bool:
    text = path.read_text(encoding="utf-8")
    return "our choice" in text or "published recipe" in text
