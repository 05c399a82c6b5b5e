"""The choice between compiled code and torch's own operations on the CPU, and a context without autocast."""

import functools
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType

import torch

USE_NUMBA = True  # tests set it to False and run on torch's operations alone, as a GPU does


def cpu_kernels() -> ModuleType | None:
    """Return the compiled kernels, `mmlib._cpu_kernels`, or None where numba is missing or switched off.

    None also under `torch.compile`, which cannot look into them.
    """
    return _load() if USE_NUMBA and not torch.compiler.is_compiling() else None


@functools.cache
def _load() -> ModuleType | None:
    try:
        import numba

        from mmlib import _cpu_kernels
    except ImportError:
        return None
    return None if numba.config.DISABLE_JIT else _cpu_kernels  # pyright: ignore[reportAttributeAccessIssue]


def without_autocast(device_type: str) -> AbstractContextManager:
    """Switch autocast off where it is on; to enter `torch.autocast` takes longer than to ask."""
    on = torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)
    return torch.autocast(device_type, enabled=False) if on else nullcontext()
