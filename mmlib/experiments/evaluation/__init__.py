"""Evaluation of a trained network on the test set: metrics, attacks, images of other data sets."""

from mmlib.experiments.evaluation.ood import energy_score, load_ood_images, max_softmax_probability, ood_metrics
from mmlib.experiments.evaluation.predictions import Predictions, predict
from mmlib.experiments.evaluation.robustness import adversarial_error, fgsm, pgd
from mmlib.experiments.evaluation.suite import EPSILONS, check_out_sets, evaluate

__all__ = [
    "EPSILONS",
    "Predictions",
    "adversarial_error",
    "check_out_sets",
    "energy_score",
    "evaluate",
    "fgsm",
    "load_ood_images",
    "max_softmax_probability",
    "ood_metrics",
    "pgd",
    "predict",
]
