"""Comparisons with the code that authors released, which is imported from a folder: none of it is here.

Each adapter names what of a release is called. Their training scripts are not: they take a GPU and a data set.
"""

import functools
import importlib
import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from comparisons import CLASSES, OTHERWISE, Batch, Comparison, check_same, drawn_pairs, drawn_weights, fixed
from torch import Tensor

from mmlib import transforms
from mmlib.experiments.methods import comixup, puzzlemix
from mmlib.experiments.methods._saliency import saliency_map
from mmlib.experiments.methods.alignmixup import mix_aligned
from mmlib.experiments.methods.base import cross_entropy
from mmlib.experiments.methods.manifold_mixup import split_encoder

RANDOM = np.random.default_rng(0)


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
