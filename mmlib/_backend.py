"""The optional compiled kernels for the CPU."""

from types import ModuleType


def cpu_kernels() -> ModuleType | None:
    """Import the kernels that numba compiles; None where numba is not installed."""
    try:
        from mmlib import _cpu_kernels
    except ImportError:
        return None
    return _cpu_kernels
