"""Training methods: modules around a classifier that return the loss of a mini-batch.

Every training loop makes, calls and advances them alike::

    method = METHODS[name](classifier, seed=0, **options)
    loss = method(images, labels)
    method.on_step_end()  # after the optimiser's step
"""

import torch
from torch import nn

from mmlib._checks import check_choice, nearest
from mmlib.experiments.methods.alignmixup import AlignMixup
from mmlib.experiments.methods.amplified_multimix import AmplifiedMultiMix
from mmlib.experiments.methods.anchored_multimix import AnchoredMultiMix
from mmlib.experiments.methods.annealed_multimix import AnnealedMultiMix
from mmlib.experiments.methods.base import Method, option_names
from mmlib.experiments.methods.comixup import CoMixup
from mmlib.experiments.methods.cutmix import CutMix
from mmlib.experiments.methods.dense_multimix import AttentionDenseMultiMix, DenseMultiMix
from mmlib.experiments.methods.distillation import DenseMultiMixDistill, MultiMixDistill, MultiMixDistillAtMixture
from mmlib.experiments.methods.erm import ERM
from mmlib.experiments.methods.hidden_multimix import HiddenMultiMix
from mmlib.experiments.methods.manifold_mixup import ManifoldMixup
from mmlib.experiments.methods.mixup import Mixup
from mmlib.experiments.methods.multimix import MultiMix
from mmlib.experiments.methods.one_alpha_multimix import OneAlphaMultiMix
from mmlib.experiments.methods.puzzlemix import PuzzleMix
from mmlib.experiments.methods.sparse_multimix import SparseMultiMix
from mmlib.experiments.methods.zeta_mixup import ZetaMixup
from mmlib.experiments.models.classifier import Classifier

METHODS: dict[str, type[Method]] = {
    "erm": ERM,
    "mixup": Mixup,
    "cutmix": CutMix,
    "manifold_mixup": ManifoldMixup,
    "puzzlemix": PuzzleMix,
    "comixup": CoMixup,
    "alignmixup": AlignMixup,
    "zeta_mixup": ZetaMixup,
    "multimix": MultiMix,
    "dense_multimix": DenseMultiMix,
    "multimix_distill": MultiMixDistill,
    "dense_multimix_distill": DenseMultiMixDistill,
    "multimix_tuples": SparseMultiMix,
    "multimix_one_alpha": OneAlphaMultiMix,
    "multimix_hidden": HiddenMultiMix,
    "dense_multimix_attention": AttentionDenseMultiMix,
    "multimix_distill_at_mixture": MultiMixDistillAtMixture,
    "multimix_amplified": AmplifiedMultiMix,
    "multimix_annealed": AnnealedMultiMix,
    "multimix_around": AnchoredMultiMix,
}


def check_options(name: str, options: dict) -> None:
    """Check the options of a method before there is a network to train.

    Args:
        name: a key of `METHODS`.
        options: keyword arguments of the method, without `seed`.

    Raises:
        ValueError: an option that the method does not take, or a value out of range.
        TypeError: a value of a wrong type.

    >>> check_options("mixup", {"alpha": -1.0})
    Traceback (most recent call last):
    ValueError: alpha must be a positive number, got -1.0
    """
    check_choice("method", name, METHODS)
    names = option_names(METHODS[name])
    for option in options.keys() - names:
        wanted = f"among {', '.join(sorted(names)) or 'none'} for {name}"
        raise ValueError(f"options must be {wanted}, got {option!r}{nearest(option, names)}")
    # Methods check their options when they are made, and only store the classifier: an empty one on no device will do.
    with torch.device("meta"):
        METHODS[name](Classifier(nn.Sequential(), 1, classes=1, mean=(0.0,), std=(1.0,)), **options)
