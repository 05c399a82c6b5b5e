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
import importlib
import json
import os
import platform
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from types import ModuleType, SimpleNamespace
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from losses import N, Problem, stock_weights
from torch import Tensor

from mmlib import mixed_cross_entropy, sample_mixing_weights, transforms
from mmlib.experiments import models
from mmlib.experiments.methods import METHODS, Method, comixup, cutmix, mixup, puzzlemix, zeta_mixup
from mmlib.experiments.methods._saliency import saliency_map
from mmlib.experiments.methods.alignmixup import mix_aligned
from mmlib.experiments.methods.base import cross_entropy
from mmlib.experiments.methods.manifold_mixup import split_encoder
from mmlib.experiments.provenance import environment

CLASSES = 100
SIZES = {32: 128, 224: 16}  # pixels along a side: images of a mini-batch
ALWAYS = {"cutmix": 1.0, "alignmixup": 1.0, "multimix": 1.0}  # the probability of methods that do not always mix
SAME, OTHERWISE, NO_MIXING = "same tensors", "solved otherwise", "without mixing"

RANDOM = np.random.default_rng(0)

Call = Callable[[Tensor, Tensor], object]
Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Comparison(NamedTuple):
    """What is compared, the two calls, and the inputs of both."""

    method: str
    peer: str
    what: str
    ours: Call
    theirs: Call
    images: Tensor
    labels: Tensor
    note: str = SAME


class Batch:
    """Random images and labels, and the small network that steps are taken with."""

    def __init__(self, size: int, count: int) -> None:
        torch.manual_seed(0)
        self.size, self.images, self.labels = size, torch.rand(count, 3, size, size), torch.randint(CLASSES, (count,))
        dataset = SimpleNamespace(channels=3, size=size, classes=CLASSES, moments=((0.5,) * 3, (0.25,) * 3))
        self.classifier = models.build("preactresnet-small", dataset)
        # A small rate, so that hundreds of steps on noise leave the network as it is: it costs what any rate costs.
        self.optimizer = torch.optim.SGD(self.classifier.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)

    def method(self, name: str, **overrides: Callable) -> Method:
        """Make a training method, some of its own methods replaced by a peer's."""
        made = METHODS[name](self.classifier, **({"probability": ALWAYS[name]} if name in ALWAYS else {}))
        for attribute, replacement in overrides.items():
            setattr(made, attribute, replacement)
        return made

    def step(self, method: Call) -> Call:
        """Make a training step of a loss."""

        def take(images: Tensor, labels: Tensor) -> None:
            self.optimizer.zero_grad()
            method(images, labels).backward()
            self.optimizer.step()

        return take

    def compare(
        self, name: str, peer: str, mixing: tuple[Call, Call], losses: tuple[Call, Call], note: str = SAME
    ) -> list[Comparison]:
        """Compare a mixing call and a step, each ours and theirs."""
        inputs, steps = (self.images, self.labels), map(self.step, losses)
        return [
            Comparison(name, peer, f"{what}, {self.size} x {self.size}", *calls, *inputs, note)
            for what, calls in (("mixing call", mixing), ("step", steps))
        ]


@contextmanager
def fixed(**results: object) -> Iterator[None]:
    """Let functions of these names return what is given, in every module here that calls one."""
    with ExitStack() as stack:
        for name, result in results.items():
            for module in (transforms, mixup, cutmix, zeta_mixup, puzzlemix):
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, return_value=result))
        yield


def check_same(ours: Mixing, theirs: Mixing, images: Tensor, drawn: Callable[..., dict]) -> None:
    """Raise if ours, with what theirs has drawn, returns other tensors.

    Every example has a class of its own, so the targets are the weights of the examples in each mixture.
    """
    labels = torch.arange(min(CLASSES, len(images)))
    images = images[: len(labels)]
    expected, targets = theirs(images.clone(), labels)
    with fixed(**drawn(images, expected, targets[:, : len(labels)])):
        mixed = ours(images.clone(), labels)
    torch.testing.assert_close(mixed, (expected, targets), rtol=1e-4, atol=1e-5)


def drawn_pairs(images: Tensor, mixed: Tensor, weights: Tensor) -> dict:
    """Recover partners, λ and box from the weights and the pixels that have changed."""
    own = weights.diagonal()
    others, partners = (weights - own.diag()).max(dim=1)
    partners = torch.where(others > 0, partners, torch.arange(len(own)))  # some permutations leave examples in place
    changed = (mixed != images).any(dim=0).any(dim=0)
    edges = [along.nonzero().flatten().tolist() or [0, -1] for along in (changed.any(1), changed.any(0))]
    box = tuple(slice(places[0], places[-1] + 1) for places in edges)
    return {"draw_pairs": (partners, own.min().item()), "cutmix_box": box}


def drawn_weights(_images: Tensor, _mixed: Tensor, weights: Tensor) -> dict:
    """Take ζ-mixup's weights as they are, if they are those of its ranks."""
    by_rank = transforms.zeta_weights(len(weights)).sort(dim=1).values
    torch.testing.assert_close(weights.sort(dim=1).values, by_rank, rtol=1e-4, atol=1e-7)
    return {"zeta_weights": weights}


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


def load(folder: Path, name: str) -> ModuleType:
    """Import a module of a release, and forget its name: other releases have a `utils` or a `mixup`, too."""
    folder = folder.resolve()
    sys.path.insert(0, str(folder))
    try:
        # Everything here runs on the processor. One of the releases silences all warnings when it is imported.
        with warnings.catch_warnings(), mock.patch("torch.cuda.is_available", return_value=False):
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
        for of_release in [key for key, module in sys.modules.items() if is_within(folder, module)]:
            del sys.modules[of_release]


def is_within(folder: Path, module: ModuleType) -> bool:
    places = [module.__file__] if getattr(module, "__file__", None) else getattr(module, "__path__", [])
    return any(Path(place).is_relative_to(folder) for place in places)


def released_zeta_mixup(batch: Batch, folder: Path) -> list[Comparison]:
    release = load(folder, "zeta_mixup")
    ours, method = transforms.ZetaMixup(num_classes=CLASSES), batch.method("zeta_mixup")

    def theirs(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return release.zeta_mixup(images, labels, num_classes=CLASSES)

    for mix in (ours, method.mix_batch):
        check_same(mix, theirs, batch.images, drawn_weights)
    losses = method, batch.method("zeta_mixup", mix_batch=theirs)
    return batch.compare("zeta_mixup", "release", (ours, theirs), losses)


def released_manifold_mixup(batch: Batch, folder: Path) -> list[Comparison]:
    """The mixing call is of images; a step mixes them or what the first or the second stage makes of them."""
    release, classifier = load(folder / "supervised", "utils"), batch.classifier
    method = batch.method("manifold_mixup")

    def ours(values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        partners, lam = transforms.draw_pairs(len(values), method.alpha)
        return transforms.mix_pairs(values, partners, lam), transforms.mix_pairs(method.one_hot(labels), partners, lam)

    def theirs(values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        lam = torch.tensor([release.get_lambda(method.alpha)], dtype=torch.float32)
        return release.mixup_process(values, method.one_hot(labels), lam)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        before, after = split_encoder(classifier.encoder, random.randint(0, method.stages))
        mixed, targets = theirs(before(classifier.normalise(images)), labels)
        return cross_entropy(classifier.classify(after(mixed)), targets)

    check_same(ours, theirs, batch.images, drawn_pairs)
    return batch.compare("manifold_mixup", "release", (ours, theirs), (method, loss))


def released_alignmixup(batch: Batch, folder: Path) -> list[Comparison]:
    """Feature maps are mixed; a step is one of those that mix them."""
    release, classifier = load(folder / "cifar10_100", "models.resnet18_classifier"), batch.classifier
    method = batch.method("alignmixup")

    def theirs(features: Tensor, labels: Tensor, lam: float) -> tuple[Tensor, Tensor, Tensor]:
        with mock.patch.object(torch.Tensor, "cuda", lambda tensor: tensor):  # it asks for a GPU in every line
            return release.mixup_aligned(features, labels, lam)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        lam = RANDOM.beta(method.alpha, method.alpha)
        mixed, *pair = theirs(classifier.features(images), labels, lam)
        logits = classifier.classify(mixed)
        return lam * F.cross_entropy(logits, pair[0]) + (1 - lam) * F.cross_entropy(logits, pair[1])

    def call_ours(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        partners, lam = transforms.draw_pairs(len(features), method.alpha)
        mixed = mix_aligned(features, features[partners], lam, transport_features=random.random() < 0.5)
        return mixed, labels[partners]

    def call_theirs(features: Tensor, labels: Tensor) -> object:
        return theirs(features, labels, RANDOM.beta(method.alpha, method.alpha))

    features = classifier.features(batch.images).detach()
    partners = RANDOM.permutation(len(features))
    for coin in (0, 1):
        drawn = mock.patch("numpy.random.permutation", return_value=partners), mock.patch.object(random, "randint")
        with drawn[0], drawn[1] as randint:
            randint.return_value = coin
            expected, *_ = theirs(features, batch.labels, 0.3)
        mixed = mix_aligned(features, features[partners], 0.3, transport_features=coin == 1)
        torch.testing.assert_close(mixed, expected, rtol=1e-2, atol=1e-2)  # the release is in single precision
    found = batch.compare("alignmixup", "release", (call_ours, call_theirs), (method, loss))
    return [found[0]._replace(what="mixing call, feature maps", images=features), found[1]]


def released_puzzlemix(batch: Batch, folder: Path) -> list[Comparison]:
    """One comparison for each number of blocks, of which both draw one a mini-batch."""
    release, method, images = load(folder, "mixup"), batch.method("puzzlemix"), batch.images
    saliency = saliency_map(batch.classifier, images, batch.labels)
    constants = {"beta": method.beta, "gamma": method.gamma, "eta": method.eta, "t_eps": method.xi, "n_labels": 3}
    # Images are pixels, not normalised ones: mean and deviation are what turns those back.
    constants |= {"neigh_size": 4, "t_size": 4, "transport": True, "mean": 0.0, "std": 1.0, "device": "cpu"}

    def mix(images: Tensor, labels: Tensor, saliency: Tensor, blocks: int, partners: np.ndarray, lam: float) -> tuple:
        mixed, share = release.mixup_graph(images, saliency, partners, block_num=blocks, alpha=lam, **constants)
        targets, share = method.one_hot(labels), share.unsqueeze(1)
        return mixed, targets * share + targets[partners] * (1 - share)

    def theirs(images: Tensor, labels: Tensor, blocks: int, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        found = saliency_map(batch.classifier, images, labels) if given is None else given
        partners, lam = RANDOM.permutation(len(images)), release.get_lambda(method.alpha)
        return mix(images, labels, found, blocks, partners, lam)

    def ours(images: Tensor, labels: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
        with fixed(saliency_map=saliency), mock.patch.object(puzzlemix, "BLOCKS", (blocks,)):
            return method.mix_batch(images, labels)

    def our_loss(images: Tensor, labels: Tensor, blocks: int) -> Tensor:
        with mock.patch.object(puzzlemix, "BLOCKS", (blocks,)):
            return method(images, labels)

    def check(blocks: int, lam: float = 0.4) -> None:
        partners, solve, masks = RANDOM.permutation(len(images)), release.graphcut_multi, []
        with mock.patch.object(release, "graphcut_multi", lambda *args: masks.append(solve(*args)) or masks[-1]):
            mix(images, batch.labels, saliency, blocks, partners, lam)
        terms = method.energy(images, saliency, torch.from_numpy(partners), lam, blocks)
        least = puzzle_energy(puzzlemix.minimize_energy_exact(*terms), *terms)
        reached = puzzle_energy(torch.from_numpy(2 - 2 * np.stack(masks)).long(), *terms)
        assert (reached > least - 1e-5).all(), "Puzzle Mix: a mask of the release has less energy than ours"
        assert (reached - least).mean() < 1e-3 * least.mean(), "Puzzle Mix: the release's masks have far more energy"

    found = []
    for blocks in (count for count in puzzlemix.BLOCKS if batch.size % count == 0):
        check(blocks)
        call_theirs = functools.partial(theirs, blocks=blocks, given=saliency)
        peer = batch.method("puzzlemix", mix_batch=functools.partial(theirs, blocks=blocks))
        calls = functools.partial(ours, blocks=blocks), call_theirs
        losses = functools.partial(our_loss, blocks=blocks), peer
        found += batch.compare(f"puzzlemix, {blocks} x {blocks}", "release", calls, losses, OTHERWISE)
    return found


def puzzle_energy(labels: Tensor, costs: Tensor, below: Tensor, beside: Tensor) -> Tensor:
    """Σ costs[x_i] + Σ w_ij (x_i - x_j)² of each grid."""
    kept = costs.gather(3, labels.unsqueeze(3)).sum(dim=(1, 2, 3))
    borders = (below * labels.diff(dim=1) ** 2).sum(dim=(1, 2)) + (beside * labels.diff(dim=2) ** 2).sum(dim=(1, 2))
    return kept + borders


def released_comixup(batch: Batch, folder: Path) -> list[Comparison]:
    release, method, images = load(folder, "mixup_parallel"), batch.method("comixup"), batch.images
    names = {"beta": method.beta, "gamma": method.gamma, "eta": method.eta, "thres": method.tau, "omega": method.omega}
    options = {f"m_{name}": value for name, value in names.items()}
    options |= {"m_block_num": comixup.BLOCKS, "m_niter": comixup.ITERATIONS, "m_thres_type": "hard"}
    settings = SimpleNamespace(**options, mixup_alpha=method.alpha, set_resolve=True)

    def theirs(images: Tensor, labels: Tensor, saliency: Tensor) -> tuple[Tensor, Tensor]:
        distance = comixup.compatibility(saliency.unsqueeze(0), 1.0)[0]  # the release scales it
        parts = [slice(i, i + comixup.GROUP_SIZE) for i in range(0, len(images), comixup.GROUP_SIZE)]
        inputs = images, method.one_hot(labels)
        found = [
            release.mixup_process_worker(
                *(x[part] for x in inputs), args=settings, sc=saliency[part], A_dist=distance[part, part]
            )
            for part in parts
        ]
        return torch.cat([mixed for mixed, _ in found]), torch.cat([targets for _, targets in found])

    saliency = saliency_map(batch.classifier, images, batch.labels)
    calls = [functools.partial(mix, saliency=saliency) for mix in (method.mix_batch, theirs)]
    losses = method, batch.method("comixup", mix_batch=theirs)
    return batch.compare("comixup", "release", tuple(calls), losses, OTHERWISE)


class Release(NamedTuple):
    """Released code: how to compare with it, where it is, which commit was tried, and what else it needs."""

    compare: Callable[[Batch, Path], list[Comparison]]
    address: str
    commit: str
    needs: str = ""


RELEASES = {
    "manifold_mixup": Release(released_manifold_mixup, "github.com/vikasverma1077/manifold_mixup", "870ef77"),
    "puzzlemix": Release(released_puzzlemix, "github.com/snu-mllab/PuzzleMix", "e2dbf3a", " and gco-wrapper"),
    "comixup": Release(released_comixup, "github.com/snu-mllab/Co-Mixup", "2a76816", " and gco-wrapper"),
    "alignmixup": Release(released_alignmixup, "github.com/shashankvkt/AlignMixup_CVPR22", "ec01a68"),
    "zeta_mixup": Release(released_zeta_mixup, "github.com/kakumarabhishek/zeta-mixup", "dab71b9"),
}


def packages(batch: Batch) -> list[Comparison]:
    """Comparisons with what is in packages, and with formulas."""
    found = []
    for compare in (timm, torchvision, formula):
        try:
            found += compare(batch)
        except ImportError as error:
            name = compare.__name__
            print(f"{name}: skipped: {error}; it takes pip install {name}")
    return found


def releases(batch: Batch, folders: dict[str, Path]) -> list[Comparison]:
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
    parser.add_argument("--seconds", type=float, default=1.0, help="of a comparison in a round")
    parser.add_argument("--quick", action="store_true", help="one call each on tiny images, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    np.random.seed(0)  # noqa: NPY002 -- timm and the releases draw from it
    device = platform.processor() or platform.machine()
    results = {"load": os.getloadavg()[0]} | environment("cpu") | {"device": device}
    print(f"{device}, {options.threads} threads, float32, load {results['load']:.1f}")
    batches = [Batch(size, count) for size, count in ({16: 8} if options.quick else SIZES).items()]
    comparisons = [comparison for batch in batches for comparison in packages(batch)]
    comparisons += loss_alone(batches[0])
    comparisons += releases(batches[0], dict(options.release))  # at CIFAR's size alone, which they are for
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
