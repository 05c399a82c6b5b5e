"""The compiled functions against NumPy in double precision, and the compiler where nothing can be kept."""

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
def test_series(ours, exact, low, high, relative, absolute):
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
