"""One instruction set for every x86-64 processor, so that a run has the same numbers on all of them.

Wider registers add in another order, and a network that trains for thousands of steps turns the last bit of a sum into
another accuracy. With 256 bits (AVX2) for PyTorch's own loops and for oneDNN's convolutions, and with the code path of
MKL that is the same on every maker's processors, nothing of that is left. One thread is needed, too.
"""

import os
import platform

COMMON_INSTRUCTIONS = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "AVX2"}


def is_x86_64() -> bool:
    """Tell whether this processor is of the kind that the common instructions are of."""
    return platform.machine().lower() in ("x86_64", "amd64")


def use_common_instructions() -> None:
    """Have PyTorch compute with `COMMON_INSTRUCTIONS` from its first operation on.

    The libraries read these variables of the environment once, when they first compute: call this before that. A
    variable that is set already stays as it is. Other processors than x86-64 are left alone.

    >>> use_common_instructions()
    """
    if is_x86_64():
        for name, value in COMMON_INSTRUCTIONS.items():
            os.environ.setdefault(name, value)


def instructions() -> dict[str, str | None]:
    """Return the variables that `use_common_instructions` sets as they are now, None where one is not set.

    >>> sorted(instructions())
    ['ATEN_CPU_CAPABILITY', 'MKL_CBWR', 'ONEDNN_MAX_CPU_ISA']
    """
    return {name: os.environ.get(name) for name in COMMON_INSTRUCTIONS}
