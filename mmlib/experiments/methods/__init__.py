"""Training objectives: a method is a module around the classifier.

It is made, called and moved on in every training loop alike::

    objective = METHODS[name](classifier, seed=0, **options)
    loss = objective(images, labels)
    objective.after_step()
"""

import torch
from torch import nn

from mmlib.experiments.methods import signal_variants, variants
from mmlib.experiments.methods.alignmixup import AlignMixup
from mmlib.experiments.methods.base import Method, option_names
from mmlib.experiments.methods.comixup import CoMixup
from mmlib.experiments.methods.cutmix import CutMix
from mmlib.experiments.methods.distillation import DenseMultiMixDistill, MultiMixDistill
from mmlib.experiments.methods.manifold_mixup import ManifoldMixup
from mmlib.experiments.methods.mixup import ERM, Mixup
from mmlib.experiments.methods.multimix import DenseMultiMix, MultiMix
from mmlib.experiments.methods.puzzlemix import PuzzleMix
from mmlib.experiments.methods.zeta_mixup import ZetaMixup

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
    "multimix_tuples": variants.TupleMultiMix,
    "multimix_one_alpha": variants.OneAlphaMultiMix,
    "multimix_hidden": variants.HiddenMultiMix,
    "dense_multimix_attention": variants.AttentionDenseMultiMix,
    "multimix_distill_at_mixture": variants.MultiMixDistillAtMixture,
    "multimix_amplified": signal_variants.AmplifiedMultiMix,
    "multimix_annealed": signal_variants.AnnealedMultiMix,
    "multimix_around": signal_variants.AnchoredMultiMix,
}


def check_options(name: str, options: dict) -> None:
    """Check that a method takes the options, and their values, before anything is made.

    Raises:
        TypeError, ValueError: an unknown option, or a value that the method refuses.
    """
    names = option_names(METHODS[name])
    for option in options.keys() - names:
        raise ValueError(f"options must be among {', '.join(sorted(names)) or 'none'} for {name}, got {option!r}")
    METHODS[name](nn.ParameterList([torch.zeros(1)]), **options)
