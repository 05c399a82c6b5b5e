"""Tests for whoever has a GPU, `pytest tests/cuda`: they take torch, torchvision, timm and pytest, and no more.

MMLIB_TEST_DEVICE rehearses them without one: `cpu` runs what they run on the processor, `pretended` on a pretended
device, where waits and memory are counted too.
"""

import os
from contextlib import contextmanager

import pytest
import torch

NAME = os.environ.get("MMLIB_TEST_DEVICE", "cuda")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or products on CUDA differ between two runs


def pytest_collection_modifyitems(items):
    missing = NAME == "cuda" and not torch.cuda.is_available()
    for item in items:
        if item.path.parent.name == "cuda":
            item.add_marker(pytest.mark.cuda)
            if missing:
                item.add_marker(pytest.mark.skip(reason="torch finds no CUDA device"))


@pytest.fixture(autouse=True)
def device():
    """The name of the device under test."""
    if NAME == "pretended":
        from tests.pretend_cuda import pretend

        with pretend():
            yield "cuda"
    else:
        yield NAME


@pytest.fixture
def no_waits(device):
    """A context in which the host must not wait for the device."""

    @contextmanager
    def forbidden():
        if device != "cuda":
            yield
            return
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return forbidden


@pytest.fixture
def peak_memory(device):
    """A function that calls another one and returns the bytes that were allocated meanwhile, at most."""
    if device != "cuda":
        pytest.skip("the processor's memory is not counted")

    def measure(call):
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    return measure


@pytest.fixture
def repeatable():
    """The same kernels in every run."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    yield
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


@pytest.fixture(scope="session")
def dataset():
    """Noise in the form of a small CIFAR: what it shows does not matter here."""
    from mmlib.experiments import data

    generator = torch.Generator("cpu").manual_seed(0)

    def split(count):
        images = torch.randint(256, (count, 8, 8, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
        return data.Split(images, torch.arange(count) % 4)

    return data.Dataset("noise", split(24), split(8), split(20), tuple("abcd"), 8, padding=1, flip=True)
