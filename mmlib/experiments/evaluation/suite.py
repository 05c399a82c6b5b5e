"""Evaluation of a trained classifier on the test set: embed once, then every metric, attacks and other sets' images."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from mmlib import metrics
from mmlib._checks import check_int
from mmlib.experiments.data.dataset import Dataset
from mmlib.experiments.data.split import Split
from mmlib.experiments.evaluation import ood
from mmlib.experiments.evaluation.predictions import Predictions, predict
from mmlib.experiments.evaluation.robustness import adversarial_error, fgsm, pgd
from mmlib.experiments.models.classifier import Classifier

# Radii of `pgd_errors`, in levels of 255; PGD's is one of them. Step half the radius, 10 steps (our choice).
EPSILONS = (0, 1, 2, 4, 8, 16)
PGD_EPSILON = 4
OUT_IMAGES = 10_000  # at most so many of an out-of-distribution set


def evaluate(
    classifier: Classifier,
    dataset: Dataset,
    *,
    attacked_per_class: int = 10,
    out_sets: Sequence[str] = ("uniform", "gaussian"),
    root: str | Path = "data",
) -> tuple[dict[str, float | list[float] | dict | None], Predictions]:
    """Metrics on the test set, with the predictions they were computed from.

    Accuracies, errors, the calibration error, `class_accuracy` and all numbers of `ood` are in percent; `nll` is the
    mean cross-entropy in nats; alignment, uniformity and the variances are of normalised embeddings.

    Args:
        attacked_per_class: images of every class that are attacked, the first of the test set; 0 for no attacks.
        out_sets: names that `ood.out_images` takes; as many images as the test set has, at most 10,000.
        root: where downloads are kept.

    Returns:
        The numbers by name, and embeddings and logits of the test set.

        ``fgsm_error``, ``pgd_error``: top-1 error on the `attacked_images` under `fgsm` (8/255) and `pgd` (4/255),
        None without attacks; ``pgd_errors``: under `pgd` for every radius in `EPSILONS`.
        ``knn_accuracy``: by the nearest images of the train split; ``reliability``: rows of `metrics.reliability`.
        ``ood``: {out-set: {score: numbers of `ood.detection`}}; {} without out-sets.

    >>> from mmlib import data, models
    >>> network = models.build("preactresnet-small", data.load("digits"))
    >>> sorted(evaluate(network, data.load("digits"), attacked_per_class=0)[0])[:4]
    ['accuracy', 'alignment', 'attacked_images', 'between_class_variance']
    """
    check_int(attacked_per_class=attacked_per_class)
    labels = dataset.test.labels
    embeddings, logits = predictions = predict(classifier, dataset.test)
    confusion = metrics.confusion(logits, labels).double()
    validation = dataset.validation and predict(classifier, dataset.validation)
    known = predict(classifier, dataset.train).embeddings
    return {
        "accuracy": metrics.accuracy(logits, labels),
        "top5_accuracy": metrics.accuracy(logits, labels, k=min(5, dataset.classes)),
        "validation_accuracy": validation and metrics.accuracy(validation.logits, dataset.validation.labels),
        "nll": F.cross_entropy(logits.double(), labels).item(),
        "calibration_error": metrics.calibration_error(logits, labels),
        "reliability": metrics.reliability(logits, labels).tolist(),
        **_shape(embeddings, labels),
        "knn_accuracy": metrics.knn_accuracy(known, dataset.train.labels, embeddings, labels),
        **_attacks(classifier, dataset.test.first_per_class(attacked_per_class)),
        "ood": {name: _detection(classifier, name, dataset.test, logits, root) for name in out_sets},
        "class_accuracy": (confusion.diag() / confusion.sum(1) * 100).tolist(),
    }, predictions


def _shape(embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    within, between = metrics.class_variances(embeddings, labels)
    return {
        "alignment": metrics.alignment(embeddings, labels),
        "uniformity": metrics.uniformity(embeddings),
        "within_class_variance": within,
        "between_class_variance": between,
        "class_mean_cosine": metrics.class_mean_cosine(embeddings, labels),
    }


def _attacks(classifier: Classifier, split: Split) -> dict[str, float | list[float] | int | None]:
    names = ("fgsm_error", "pgd_error", "pgd_errors")
    if not len(split):
        return dict.fromkeys(names) | {"attacked_images": 0}
    attacks = [partial(pgd, epsilon=k / 255, step=k / 510, steps=10 if k else 1) for k in EPSILONS]
    errors = [adversarial_error(classifier, split, attack) for attack in attacks]
    found = (adversarial_error(classifier, split, fgsm), errors[EPSILONS.index(PGD_EPSILON)], errors)
    return dict(zip(names, found)) | {"attacked_images": len(split)}


def _detection(classifier: Classifier, name: str, test: Split, logits: Tensor, root: str | Path) -> dict[str, dict]:
    out = predict(classifier, ood.load_ood_images(name, test, min(len(test), OUT_IMAGES), root=root)).logits
    scores = (ood.maximum_softmax, ood.energy)
    return {score.__name__: ood.detection(score(logits), score(out)) for score in scores}
