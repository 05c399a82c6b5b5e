"""The device of a run: its name, its arithmetic and its memory."""

import os
import sys
import warnings

import torch

from mmlib._checks import check_int, check_range

MOST_THREADS = 64  # on a machine of fewer processors


def check_device(device: str) -> None:
    """Check that a device has a name that training takes, and that it is there.

    Raises:
        ValueError: the name is not `cpu`, `cuda` or `cuda:<index>`, or there is no such GPU.

    >>> check_device("gpu")
    Traceback (most recent call last):
    ValueError: device must be 'cpu', 'cuda' or 'cuda:<index>', got 'gpu'
    """
    kind, separator, index = str(device).partition(":")
    if kind not in ("cpu", "cuda") or (separator and not (kind == "cuda" and index.isdecimal())):
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:<index>', got {device!r}")
    count = torch.cuda.device_count() if kind == "cuda" and torch.cuda.is_available() else 0
    if kind == "cuda" and not count:
        raise ValueError(f"device must be 'cpu' where torch finds no GPU, got {device!r}")
    if separator and int(index) >= count:
        raise ValueError(f"device must be one of cuda:0 to cuda:{count - 1}, got {device!r}")


def check_threads(threads: int | None) -> None:
    """Check a number of threads; None is torch's default. Thousands of them would wait for each other for ever.

    Raises:
        TypeError: it is no integer.
        ValueError: it is below 1, or above 64 and the number of processors.

    >>> check_threads(0)
    Traceback (most recent call last):
    ValueError: threads must be an integer >= 1, got 0
    """
    if threads is not None:
        check_int(1, threads=threads)
        check_range(1, max(MOST_THREADS, os.cpu_count() or 1), threads=threads)


def device_type(device: str) -> str:
    """Return the kind of a device, `cpu` or `cuda`, without its index."""
    return torch.device(device).type


def use_ieee_float32() -> None:
    """Compute in the whole of single precision on GPUs, too; by default their convolutions round to TF32.

    The switch is the process's, so that the evaluation of a trained network has the same arithmetic.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def warn_if_bfloat16_is_emulated(device: str) -> None:
    """Warn where a GPU has no bfloat16 of its own: there `bfloat16` is slower than `float32`."""
    if device_type(device) == "cuda" and not torch.cuda.is_bf16_supported(False):
        name = torch.cuda.get_device_name(device)
        warnings.warn(f"precision is 'bfloat16', which {name} emulates; 'float32' is faster there", stacklevel=3)


def reset_peak_memory(device: str) -> None:
    """Forget the most memory held so far; the system's count for a whole process cannot be reset."""
    if device_type(device) == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mib(device: str) -> float | None:
    """Return the most memory held since the last reset, in MiB: of a GPU its tensors, else the whole process.

    None on Windows, which has no such count.
    """
    if device_type(device) == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10)
