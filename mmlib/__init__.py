"""MultiMix, Dense MultiMix and self-distillation, after Venkataramanan, Kijak, Amsaleg and Avrithis (NeurIPS 2023).

The letters, bound here once:

====  =====================================================================================
m     examples interpolated: the whole mini-batch
n     mixtures drawn per mini-batch, n >> m
d, c  embedding dimensions, classes
r     spatial positions of a feature map (h * w), or tokens
λ     one point of the (m-1)-simplex per mixture; Λ is all n of them, (n, m), one mixture a row
====  =====================================================================================
"""

from mmlib.losses import DenseMultiMix, MultiMix, dense_mixed_cross_entropy, mixed_cross_entropy
from mmlib.metrics import alignment, uniformity
from mmlib.mixing import attention_map, mix, sample_weights

__all__ = [
    "DenseMultiMix",
    "MultiMix",
    "alignment",
    "attention_map",
    "dense_mixed_cross_entropy",
    "mix",
    "mixed_cross_entropy",
    "sample_weights",
    "uniformity",
]
