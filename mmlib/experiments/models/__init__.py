"""Networks: an encoder whose stages make a feature map, and a linear head."""

from mmlib.experiments.models.classifier import Classifier, Encoder, ImageClassifier, eval_mode
from mmlib.experiments.models.preact_resnet import preact_resnet
from mmlib.experiments.models.registry import MODELS, build

__all__ = ["MODELS", "Classifier", "Encoder", "ImageClassifier", "build", "eval_mode", "preact_resnet"]
