"""The compiled functions against NumPy in double precision, and the library where they cannot be kept or compiled."""

import os
import subprocess
import sys

import numba
import numpy as np
import pytest

from mmlib import _cpu_kernels


@pytest.mark.parametrize(
    ("ours", "exact", "low", "high", "relative", "absolute"),
    [
        (_cpu_kernels._log, np.log, 2**-33, 2, 3e-7, 0),
        (_cpu_kernels._log, np.log, 0.999, 1.001, 3e-7, 0),
        (_cpu_kernels._log, np.log, 1e-30, 1e6, 3e-7, 0),
        (_cpu_kernels._exp, np.exp, -87, 0, 5e-6, 0),
        (_cpu_kernels._exp, np.exp, -1, 0, 3e-7, 0),
        (_cpu_kernels._exp, np.exp, -1e6, -90, 0, 1e-38),
        (_cpu_kernels._sin_half_pi, lambda x: np.sin(np.pi / 2 * x), -1, 1, 3e-7, 0),
    ],
)
def test_logarithm_exponential_and_sine(ours, exact, low, high, relative, absolute):
    x = np.random.default_rng(0).uniform(low, high, 50_000).astype(np.float32)
    np.testing.assert_allclose([ours(value) for value in x], exact(x.astype(float)), rtol=relative, atol=absolute)


def test_nan_stays_nan():
    for function in (_cpu_kernels._log, _cpu_kernels._exp, _cpu_kernels._sin_half_pi):
        assert np.isnan(function(np.float32("nan")))


def test_compiled_functions_are_kept_where_there_is_a_folder(monkeypatch):
    def twice(x):
        return 2 * x

    assert _cpu_kernels._compiled(twice)(3) == 6
    # As where neither the package nor the home can be written to.
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    monkeypatch.setattr("numba.core.caching.config.CACHE_LOCATOR_CLASSES", "", raising=False)
    assert _cpu_kernels._compiled(twice)(3) == 6


@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
@pytest.mark.parametrize("size", [0, 40])
def test_a_truncated_cache_is_mended(monkeypatch, tmp_path, ending, size):
    def twice(x):
        return 2 * x

    def kernel():
        """As in a process of its own, which knows of the compiled code from its files alone."""
        return _cpu_kernels._compiled(twice)

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(_cpu_kernels, "_DISPATCHERS", [])
    assert kernel()(3) == 6
    (file,) = tmp_path.rglob(f"*{ending}")
    os.truncate(file, size)
    with pytest.raises(Exception):  # noqa: B017, PT011  what numba raises depends on where the file ends
        kernel()(3)
    assert _cpu_kernels._survives_broken_cache(kernel())(3) == 6
    assert kernel()(3) == 6


@pytest.mark.parametrize("how", ["not installed", "switched off"])
def test_without_numba_the_losses_run_on_torch_alone(how):
    code = """
import sys
if sys.argv[1] == "not installed":
    sys.modules["numba"] = None
import torch, mmlib, mmlib._backend
assert mmlib._backend.cpu_kernels() is None
logits = torch.randn(4, 3, requires_grad=True)
mmlib.MultiMixLoss(10)(logits, torch.tensor([0, 1, 2, 0])).backward()
assert logits.grad.isfinite().all() and mmlib.sample_mixing_weights(3, 4).shape == (3, 4)
"""
    variables = {"NUMBA_DISABLE_JIT": "1"} if how == "switched off" else {}
    subprocess.run([sys.executable, "-c", code, how], check=True, env=os.environ | variables)
