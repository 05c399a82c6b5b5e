"""Evaluation of a trained classifier on the test set: embed once, then every metric, attacks and other sets' images."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from mmlib import metrics
from mmlib._checks import check_int
from mmlib.experiments.data.dataset import Dataset
from mmlib.experiments.data.split import Split
from mmlib.experiments.evaluation.ood import SCORES, load_ood_images, ood_metrics
from mmlib.experiments.evaluation.predictions import Predictions, predict
from mmlib.experiments.evaluation.robustness import adversarial_error, fgsm, pgd
from mmlib.experiments.models.classifier import Classifier

# Radii of `pgd_errors`, in levels of 255; PGD's is one of them. Step half the radius, 10 steps (our choice).
EPSILONS = (0, 1, 2, 4, 8, 16)
PGD_EPSILON = 4
MAX_OOD_IMAGES = 10_000  # of one out-of-distribution set


def evaluate(
    classifier: Classifier,
    dataset: Dataset,
    *,
    attacked_per_class: int = 10,
    out_sets: Sequence[str] = ("uniform", "gaussian"),
    root: str | Path = "data",
    batch_size: int | None = None,
) -> tuple[dict[str, float | int | list | dict | None], Predictions]:
    """Compute metrics on the test set, and return them with the predictions they were computed from.

    Accuracies, errors, the calibration error, `class_accuracy` and all numbers of `ood` are in percent; `nll` is the
    mean cross-entropy in nats; alignment, uniformity and the variances are of normalised embeddings. A number that
    cannot be computed is None, such as the accuracy of a class without test images.

    Args:
        classifier: on any device. It holds less there than a step of training with `batch_size` images.
        dataset: on any device.
        attacked_per_class: images of every class that are attacked, the first of the test set; 0 for no attacks.
        out_sets: names that `load_ood_images` takes; as many images as the test set has, at most 10,000.
        root: where downloads are kept.
        batch_size: images at a time; None takes the data set's.

    Returns:
        The numbers by name, and embeddings and logits of the test set.

        ``fgsm_error``, ``pgd_error``: top-1 error on the `attacked_images` under `fgsm` (8/255) and `pgd` (4/255),
        None without attacks; ``pgd_errors``: under `pgd` for every radius in `EPSILONS`.
        ``knn_accuracy``: by the nearest images of the train split; ``reliability``: rows of `reliability_bins`.
        ``ood``: {out-set: {score: numbers of `ood_metrics`}}; {} without out-sets.

    Raises:
        TypeError, ValueError: an argument that cannot be, before anything is computed.
        FileNotFoundError: an out-of-distribution set that is not there, before anything is computed.

    >>> from mmlib.experiments import data, models
    >>> network = models.build("preactresnet-small", data.load("digits"))
    >>> sorted(evaluate(network, data.load("digits"), attacked_per_class=0)[0])[:4]
    ['accuracy', 'alignment', 'attacked_images', 'between_class_variance']
    """
    check_int(attacked_per_class=attacked_per_class)
    batch_size = dataset.batch_size if batch_size is None else batch_size
    check_int(1, batch_size=batch_size)
    check_out_sets(out_sets, dataset.test, root=root)
    labels = dataset.test.labels.cpu()
    embeddings, logits = predictions = predict(classifier, dataset.test, batch_size)
    confusion = metrics.confusion_matrix(logits, labels).double()
    attacked = dataset.test.first_per_class(attacked_per_class)
    return {
        "accuracy": _number(metrics.accuracy(logits, labels)),
        "top5_accuracy": _number(metrics.accuracy(logits, labels, k=5)),
        "validation_accuracy": _validation_accuracy(classifier, dataset.validation, batch_size),
        "nll": _number(F.cross_entropy(logits.double(), labels)),
        "calibration_error": _number(metrics.calibration_error(logits, labels)),
        "reliability": metrics.reliability_bins(logits, labels).tolist(),
        **_embedding_metrics(embeddings, labels),
        "knn_accuracy": _knn_accuracy(classifier, dataset.train, embeddings, labels, batch_size),
        **_robustness_metrics(classifier, attacked, batch_size),
        "ood": {name: _ood_metrics(classifier, name, dataset.test, logits, root, batch_size) for name in out_sets},
        "class_accuracy": [_number(value) for value in confusion.diag() / confusion.sum(1) * 100],
    }, predictions


def check_out_sets(out_sets: Sequence[str], like: Split, *, root: str | Path = "data") -> None:
    """Check that all out-of-distribution sets can be loaded; arguments as those of `evaluate` and `load_ood_images`.

    Raises:
        TypeError: not a sequence of strings.
        ValueError, FileNotFoundError: as `load_ood_images`.
    """
    if isinstance(out_sets, str) or not all(isinstance(name, str) for name in out_sets):
        raise TypeError(f"out_sets must be a sequence of names, got {out_sets!r}")
    for name in out_sets:
        load_ood_images(name, like, 1, root=root)


def _number(value: Tensor) -> float | None:
    """A number for JSON, which knows neither NaN nor infinity."""
    return value.item() if math.isfinite(value) else None


def _validation_accuracy(classifier: Classifier, split: Split | None, batch_size: int) -> float | None:
    if split is None:
        return None
    return _number(metrics.accuracy(predict(classifier, split, batch_size).logits, split.labels))


def _embedding_metrics(embeddings: Tensor, labels: Tensor) -> dict[str, float | None]:
    within, between = metrics.class_variances(embeddings, labels)
    values = {
        "alignment": metrics.alignment(embeddings, labels),
        "uniformity": metrics.uniformity(embeddings),
        "within_class_variance": within,
        "between_class_variance": between,
        "class_mean_cosine": metrics.class_mean_cosine(embeddings, labels),
    }
    return {name: _number(value) for name, value in values.items()}


def _knn_accuracy(
    classifier: Classifier, train: Split, embeddings: Tensor, labels: Tensor, batch_size: int
) -> float | None:
    train_embeddings = predict(classifier, train, batch_size).embeddings
    return _number(metrics.knn_accuracy(train_embeddings, train.labels, embeddings, labels))


def _robustness_metrics(
    classifier: Classifier, split: Split, batch_size: int
) -> dict[str, float | list[float] | int | None]:
    if not len(split):
        return {"fgsm_error": None, "pgd_error": None, "pgd_errors": None, "attacked_images": 0}
    attacks = [partial(pgd, epsilon=k / 255, step=k / 510, steps=10 if k else 1) for k in EPSILONS]
    errors = [adversarial_error(classifier, split, attack, batch_size) for attack in attacks]
    return {
        "fgsm_error": adversarial_error(classifier, split, fgsm, batch_size),
        "pgd_error": errors[EPSILONS.index(PGD_EPSILON)],
        "pgd_errors": errors,
        "attacked_images": len(split),
    }


def _ood_metrics(
    classifier: Classifier, name: str, test: Split, logits: Tensor, root: str | Path, batch_size: int
) -> dict[str, dict[str, float]]:
    images = load_ood_images(name, test, min(len(test), MAX_OOD_IMAGES), root=root)
    logits_out = predict(classifier, images, batch_size).logits
    return {name: ood_metrics(score(logits), score(logits_out)) for name, score in SCORES.items()}
