"""Evaluation of a trained classifier on the test set: embed once, then every metric."""

import torch.nn.functional as F

from mmlib import metrics
from mmlib.data import Dataset
from mmlib.models import Classifier, Predictions, predict


def evaluate(classifier: Classifier, dataset: Dataset) -> tuple[dict[str, float | list[float] | None], Predictions]:
    """Metrics on the test set, with the predictions they were computed from.

    Accuracies, the calibration error and `class_accuracy` are in percent; `nll` is the mean cross-entropy in nats;
    alignment, uniformity and the variances are of normalised embeddings.

    >>> from mmlib import data, models
    >>> digits = data.load("digits")
    >>> numbers, predictions = evaluate(models.build("preactresnet-small", digits), digits)
    >>> sorted(numbers)[:4]
    ['accuracy', 'alignment', 'between_class_variance', 'calibration_error']
    """
    labels = dataset.test.labels
    embeddings, logits = predictions = predict(classifier, dataset.test)
    confusion = metrics.confusion(logits, labels).double()
    within, between = metrics.class_spread(embeddings, labels)
    validation = dataset.validation and predict(classifier, dataset.validation)
    return {
        "accuracy": metrics.accuracy(logits, labels),
        "top5_accuracy": metrics.accuracy(logits, labels, k=min(5, dataset.classes)),
        "validation_accuracy": validation and metrics.accuracy(validation.logits, dataset.validation.labels),
        "nll": F.cross_entropy(logits.double(), labels).item(),
        "calibration_error": metrics.calibration_error(logits, labels),
        "alignment": metrics.alignment(embeddings, labels),
        "uniformity": metrics.uniformity(embeddings),
        "within_class_variance": within,
        "between_class_variance": between,
        "class_accuracy": (confusion.diag() / confusion.sum(1) * 100).tolist(),
    }, predictions
