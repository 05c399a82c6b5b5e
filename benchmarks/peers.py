"""Ours beside others' code: `python benchmarks/peers.py` prints ratios, ours over theirs, writes them to build/bench.

timm and torchvision are packages. The code that authors released is not: give a clone of it by `--release NAME=FOLDER`.
A peer that is not there is skipped, in one line that says how to get it. Each comparison is of one mixing call, and of
one step of the small network (loss, its gradients, the optimiser): ours, and the same loop with the peer's mixing call
in place of ours. So network, loss and optimiser are the same on both sides, and so are images and labels. MultiMix is
compared with the formula in embedding space of `losses.py`, and with plain cross-entropy.

Each side gets a fresh copy of the images, made outside the clock, for timm mixes in place. Both run in turn in this
process; a round calls every comparison's two sides in turn for a second, once at least. A round's ratio is that of the
medians, a row's the median of the rounds', and the least and largest stand beside it.

Before anything is timed, ours gets what the peer has drawn (partners, λ, box, weights) and must return the same
tensors, or the benchmark ends there. Puzzle Mix and Co-Mixup are solved otherwise here than in their releases, so their
images differ. Of Puzzle Mix's masks ours must have the least energy, and the release's one close to it. Releases run in
this process alone: the worker processes that two of them can use are left out.
"""

import argparse
import functools
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from comparisons import CLASSES, NO_MIXING, SAME, Batch, Call, Comparison, Mixing, check_same, drawn_pairs
from losses import N, Problem, stock_weights
from releases import RELEASES
from torch import Tensor

from mmlib import mixed_cross_entropy, sample_mixing_weights, transforms
from mmlib.experiments.arguments import non_negative
from mmlib.experiments.provenance import environment

SIZES = {32: 128, 224: 16}  # pixels along a side: images of a mini-batch


def mixup_and_cutmix(batch: Batch, peer: str, theirs: dict[str, Mixing]) -> list[Comparison]:
    ours = {"mixup": transforms.Mixup(num_classes=CLASSES), "cutmix": transforms.CutMix(num_classes=CLASSES)}
    found = []
    for name, mix in theirs.items():
        method = batch.method(name)
        for of_ours in (ours[name], method.mix_batch):
            check_same(of_ours, mix, batch.images, drawn_pairs)
        found += batch.compare(name, peer, (ours[name], mix), (method, batch.method(name, mix_batch=mix)))
    return found


def timm(batch: Batch) -> list[Comparison]:
    from timm.data import Mixup

    make = functools.partial(Mixup, label_smoothing=0.0, num_classes=CLASSES)
    return mixup_and_cutmix(batch, "timm", {"mixup": make(), "cutmix": make(mixup_alpha=0.0, cutmix_alpha=1.0)})


def torchvision(batch: Batch) -> list[Comparison]:
    from torchvision.transforms import v2

    theirs = {"mixup": v2.MixUp(num_classes=CLASSES), "cutmix": v2.CutMix(num_classes=CLASSES)}
    return mixup_and_cutmix(batch, "torchvision", theirs)


def formula(batch: Batch) -> list[Comparison]:
    """MultiMix's step beside one with the formula in embedding space, and beside plain cross-entropy."""
    classifier = batch.classifier

    def in_embedding_space(images: Tensor, labels: Tensor) -> Tensor:
        weights = stock_weights(N, len(images), "cpu")
        targets = F.one_hot(labels, CLASSES).to(weights.dtype)
        return F.cross_entropy(classifier.head(weights @ classifier.embed(images)), weights @ targets)

    ours, what = batch.step(batch.method("multimix")), f"step, {batch.size} x {batch.size}"
    others = ("formula", in_embedding_space, SAME), ("cross-entropy", batch.method("erm"), NO_MIXING)
    return [
        Comparison("multimix", peer, what, ours, batch.step(loss), batch.images, batch.labels, note)
        for peer, loss, note in others
    ]


def loss_alone(batch: Batch) -> list[Comparison]:
    """MultiMix's loss and its gradients beside the same two, on the embeddings of `losses.py`."""
    problem = Problem("cpu")
    weights, targets = sample_mixing_weights(N, len(problem.classes)), F.one_hot(problem.classes, CLASSES)
    expected = F.cross_entropy(problem.head(weights @ problem.embeddings), weights @ targets.to(weights.dtype))
    ours = mixed_cross_entropy(problem.head(problem.embeddings), problem.classes, mixing_weights=weights)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)

    def plain() -> None:
        F.cross_entropy(problem.head(problem.embeddings), problem.classes).backward()

    others = ("formula", problem.multimix_baseline, SAME), ("cross-entropy", plain, NO_MIXING)
    return [
        Comparison(
            "multimix", peer, "loss", ignoring(problem.multimix), ignoring(call), batch.images, batch.labels, note
        )
        for peer, call, note in others
    ]


def ignoring(call: Callable[[], None]) -> Call:
    """Make a call that has its inputs already."""
    return lambda *_: call()


def with_packages(batch: Batch) -> list[Comparison]:
    """Comparisons with what is in packages, and with formulas."""
    found = []
    for compare in (timm, torchvision, formula):
        try:
            found += compare(batch)
        except ImportError as error:
            name = compare.__name__
            print(f"{name}: skipped: {error}; it takes pip install {name}")
    return found


def with_releases(batch: Batch, folders: dict[str, Path]) -> list[Comparison]:
    """Comparisons with released code, where it is there."""
    found = []
    for name, release in RELEASES.items():
        how = f"--release {name}=FOLDER, a clone of {release.address} (tried: {release.commit}){release.needs}"
        try:
            if name not in folders:
                raise ImportError("no folder given")
            found += release.compare(batch, folders[name])
        except ImportError as error:
            print(f"{name}'s release: skipped: {error}; it takes {how}")
    return found


def call_times(comparison: Comparison, seconds: float) -> tuple[float, float]:
    """Median milliseconds of a call, ours and theirs, in turn for so many seconds, once at least."""
    times = [], []
    end = time.perf_counter() + seconds
    while not times[0] or time.perf_counter() < end:
        for side, call in enumerate((comparison.ours, comparison.theirs)):
            images = comparison.images.clone()
            start = time.perf_counter()
            call(images, comparison.labels)
            times[side].append(1e3 * (time.perf_counter() - start))
    return median(times[0]), median(times[1])


def measure(comparisons: list[Comparison], rounds: int, seconds: float) -> list[dict]:
    """Rows of medians and ratios, after a round that does not count."""
    measured = [[] for _ in comparisons]
    for turn in range(rounds + 1):
        for of_rounds, comparison in zip(measured, comparisons):
            times = call_times(comparison, seconds if turn else 0)
            of_rounds += [times] if turn else []
    rows = []
    for of_rounds, comparison in zip(measured, comparisons):
        row = {name: getattr(comparison, name) for name in ("method", "peer", "what", "note")}
        ours, theirs = (median(times) for times in zip(*of_rounds))
        ratios = [a / b for a, b in of_rounds]
        rows.append(row | {"ours_ms": ours, "theirs_ms": theirs, "ratio": median(ratios), "ratios": ratios})
    return rows


def folder_of_release(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    if name not in RELEASES or not folder:
        raise argparse.ArgumentTypeError(f"must be NAME=FOLDER, NAME one of {', '.join(RELEASES)}, got {text!r}")
    return name, Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description="Ours beside others' code.")
    parser.add_argument("--release", type=folder_of_release, action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=non_negative, default=1.0, help="of a comparison in a round")
    parser.add_argument("--quick", action="store_true", help="one call each on tiny images, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    np.random.seed(0)  # noqa: NPY002 -- timm and the releases draw from it
    device = platform.processor() or platform.machine()
    results = {"load": os.getloadavg()[0]} | environment("cpu") | {"device": device}
    print(f"{device}, {options.threads} threads, float32, load {results['load']:.1f}")
    batches = [Batch(size, count) for size, count in ({16: 8} if options.quick else SIZES).items()]
    comparisons = [comparison for batch in batches for comparison in with_packages(batch)]
    comparisons += loss_alone(batches[0])
    comparisons += with_releases(batches[0], dict(options.release))  # at CIFAR's size alone, which they are for
    rounds, seconds = (1, 0.0) if options.quick else (options.rounds, options.seconds)
    results["rows"] = measure(comparisons, rounds, seconds)
    print(f"{'':52}ours{'theirs':>28}   ours / theirs, least and largest of the rounds")
    for row in results["rows"]:
        span = f"{min(row['ratios']):.2f} to {max(row['ratios']):.2f}"
        print(
            f"{row['method']:<20}{row['what']:<27}{row['ours_ms']:>9.2f} ms"
            f"  {row['peer']:<14}{row['theirs_ms']:>9.2f} ms{row['ratio']:>8.2f}  {span:<15} {row['note']}"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / f"peers-cpu-{options.threads}.json"
    target.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
