"""MultiMix, Dense MultiMix and self-distillation, after Venkataramanan, Kijak, Amsaleg and Avrithis (NeurIPS 2023).

The letters used in all docstrings:

====  =====================================================================================
m     examples interpolated: the whole mini-batch
n     mixtures drawn per mini-batch, n >> m
d, c  embedding dimensions, classes
r     spatial positions of a feature map (h * w), or tokens
λ     one point of the (m-1)-simplex per mixture; Λ is all n of them, (n, m), one mixture a row
====  =====================================================================================

The modules of this folder are the library: criteria and functions that take tensors and return tensors. The folder
`mmlib.experiments` below it holds what the book runs: data sets, networks, training methods, the training loop,
evaluation and run folders. The library never imports from it.
"""

from importlib import metadata

from mmlib.attention import attention_map, softmax_attention_map
from mmlib.functional import dense_mixed_cross_entropy, mixed_binary_cross_entropy, mixed_cross_entropy
from mmlib.losses import DenseMultiMixLoss, MultiMixBCELoss, MultiMixLoss
from mmlib.metrics import alignment, uniformity
from mmlib.mixing import mix
from mmlib.recipe import MultiMixRecipe
from mmlib.sampling import sample_mixing_weights

try:
    __version__ = metadata.version("mmlib")
except metadata.PackageNotFoundError:  # a copy of the folder that is on the path but not installed
    __version__ = "0+unknown"

__all__ = [
    "DenseMultiMixLoss",
    "MultiMixBCELoss",
    "MultiMixLoss",
    "MultiMixRecipe",
    "alignment",
    "attention_map",
    "dense_mixed_cross_entropy",
    "mix",
    "mixed_binary_cross_entropy",
    "mixed_cross_entropy",
    "sample_mixing_weights",
    "softmax_attention_map",
    "uniformity",
]
