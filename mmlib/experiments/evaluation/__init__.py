"""Evaluation of a trained network on the test set: metrics, attacks, images of other data sets."""

from mmlib.experiments.evaluation.ood import load_ood_images
from mmlib.experiments.evaluation.predictions import Predictions, predict
from mmlib.experiments.evaluation.robustness import adversarial_error, fgsm, pgd
from mmlib.experiments.evaluation.suite import EPSILONS, evaluate

__all__ = ["EPSILONS", "Predictions", "adversarial_error", "evaluate", "fgsm", "load_ood_images", "pgd", "predict"]
