"""Shape annotations: `Float[Tensor, "n m"]` is a floating-point tensor of n rows and m columns.

The tests check them at every call (jaxtyping with beartype). A machine that has only what mmlib needs
runs without them.
"""

from typing import Annotated

import torch
from torch import Tensor

try:
    from jaxtyping import Float, Int, Integer, UInt8
except ImportError:
    Float = Int = Integer = UInt8 = Annotated


# A Dirichlet's concentration, or the interval that every mixture's is drawn from.
Alpha = float | tuple[float, float]


Device = torch.device | str


# A mini-batch: pixels in [0, 1], class indices, distributions over classes.
Images, Labels, Targets = Float[Tensor, "m channels size size"], Integer[Tensor, " m"], Float[Tensor, "m c"]
