"""Shape annotations: `Float[Tensor, "n m"]` is a floating-point tensor with n rows and m columns.

The tests check them at every call (jaxtyping with beartype). Type checkers see plain tensors, and so does Python
where jaxtyping is not installed.
"""

from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing import Annotated as Bool
    from typing import Annotated as Float
    from typing import Annotated as Int
    from typing import Annotated as Integer
    from typing import Annotated as UInt8
else:
    try:
        from jaxtyping import Bool, Float, Int, Integer, UInt8
    except ImportError:
        Bool = Float = Int = Integer = UInt8 = Annotated

__all__ = ["Alpha", "Bool", "Device", "Float", "Images", "Int", "Integer", "Labels", "Targets", "UInt8"]

# A Dirichlet's concentration, or the interval that every mixture's concentration is drawn from.
Alpha = float | tuple[float, float] | list[float]

Device = torch.device | str | int

# A mini-batch: pixels in [0, 1], class indices of any integer type, distributions over classes.
Images = Float[Tensor, "m channels size size"]
Labels = Integer[Tensor, " m"]
Targets = Float[Tensor, "m c"]
