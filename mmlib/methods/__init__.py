"""Training objectives: a method is a module around the classifier.

It is made, called and moved on in every training loop alike::

    objective = METHODS[name](classifier, seed=0, **options)
    loss = objective(images, labels)
    objective.after_step()
"""

from mmlib.methods import ablations, signal
from mmlib.methods.alignmixup import AlignMixup
from mmlib.methods.comixup import CoMixup
from mmlib.methods.cutmix import CutMix
from mmlib.methods.distillation import DenseMultiMixDistill, MultiMixDistill
from mmlib.methods.manifold_mixup import ManifoldMixup
from mmlib.methods.mixup import ERM, Mixup
from mmlib.methods.multimix import DenseMultiMix, MultiMix
from mmlib.methods.objective import Objective
from mmlib.methods.puzzlemix import PuzzleMix
from mmlib.methods.zeta_mixup import ZetaMixup

METHODS: dict[str, type[Objective]] = {
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
    "multimix_tuples": ablations.TupleMultiMix,
    "multimix_one_alpha": ablations.OneAlphaMultiMix,
    "multimix_hidden": ablations.HiddenMultiMix,
    "dense_multimix_attention": ablations.AttentionDenseMultiMix,
    "multimix_distill_at_mixture": ablations.MultiMixDistillAtMixture,
    "multimix_amplified": signal.AmplifiedMultiMix,
    "multimix_annealed": signal.AnnealedMultiMix,
    "multimix_around": signal.AroundMultiMix,
}
