"""The compiled sampler: its bits against published ones, its draws against SciPy's distributions."""

import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from mmlib import _cpu_kernels


def drawn(n: int, m: int, alpha: float | tuple[float, float], seed: int = 0, first: int = 0) -> np.ndarray:
    out = np.empty((n, m), np.float32)
    _cpu_kernels.draw_dirichlet(out, seed, first, *(alpha if isinstance(alpha, tuple) else (alpha, alpha)))
    return out


def test_bits_are_those_of_splitmix64():
    """The first numbers of its reference implementation (Vigna, prng.di.unimi.it) from seed 1234567."""
    step, state = 0x9E3779B97F4A7C15, 1234567
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    # A counter's place in the sequence: ours starts at 0 and is multiplied, the reference's state is added to.
    inverse = pow(step, -1, 2**64)
    counters = [(state * inverse + k) % 2**64 for k in range(1, 6)]
    assert [int(_cpu_kernels._splitmix64(np.uint64(counter))) for counter in counters] == expected


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 0.49, 0.5, 1.0, 3.0, 100.0])
@pytest.mark.parametrize("m", [2, 64])
def test_millions_of_draws_fall_evenly_between_quantiles(alpha, m):
    """The shortcuts of the method would show in some quantile."""
    marginal = stats.beta(alpha, (m - 1) * alpha)
    bounds = np.unique(marginal.ppf(np.arange(1, 64) / 64).astype(np.float32))
    bounds = bounds[(bounds > 1e-37) & (bounds < 0.999)]
    weights = drawn(2_000_000 // m, m, alpha)[:, : m - 1].ravel()
    counts = np.bincount(np.searchsorted(bounds, weights), minlength=len(bounds) + 1)
    shares = np.diff(marginal.cdf(bounds), prepend=0, append=1)
    assert stats.chisquare(counts, shares * len(weights)).pvalue > 1e-4


def test_every_row_draws_its_concentration_evenly():
    """The sum of squares of a row of many tells its concentration: E = (α + 1) / (mα + 1)."""
    n, m = 20_000, 512
    squares = (drawn(n, m, (0.5, 2.0)).astype(float) ** 2).sum(axis=1)
    estimates = (1 - squares) / (m * squares - 1)
    exact = np.random.default_rng(0)
    gamma = exact.standard_gamma(np.broadcast_to(exact.uniform(0.5, 2, (n, 1)), (n, m)))
    squares = ((gamma / gamma.sum(1, keepdims=True)) ** 2).sum(axis=1)
    assert stats.ks_2samp(estimates, (1 - squares) / (m * squares - 1)).pvalue > 1e-4


def test_normal_numbers_of_a_pair_are_independent():
    """Proposals half a block apart come of one radius and one angle."""
    words, proposals, accepted = (
        np.empty(2 * _cpu_kernels.NORMAL_PAIRS_PER_BATCH, np.uint64),
        np.empty(160, np.float32),
        np.empty(160, bool),
    )
    pairs = []
    for block in range(4000):
        _cpu_kernels._marsaglia_tsang(np.uint64(block * 1000), np.float32(1 / 9 * 100), words, proposals, accepted)
        pairs.append(proposals.reshape(2, -1).copy())
    x, y = (np.concatenate([pair[side] for pair in pairs]).astype(float) - 1 for side in (0, 1))
    for values in (x, y, (x + y) / 2**0.5, (x - y) / 2**0.5):
        assert stats.kstest(values * 10, "norm").pvalue > 1e-4
    squares = np.corrcoef(x**2, y**2)[0, 1]
    assert abs(squares) < 4 / len(x) ** 0.5


def test_uniform_numbers_are_between_0_and_1():
    words = np.array([0, 1, 2**31, 2**32 - 1], np.uint32)
    assert [_cpu_kernels._to_unit_interval(word) for word in words] == [2.0**-33, 1.5 * 2.0**-32, 0.5, 1.0]


def test_rows_are_the_counters_of_a_long_row_apart():
    """2³² numbers: more than any row takes, so that rows of one seed share no bits."""
    assert np.array_equal(drawn(3, 50, (0.3, 2.0), seed=7)[2:], drawn(1, 50, (0.3, 2.0), seed=7 + 2 * 2**32))


def test_a_row_is_decided_by_its_seed_and_number():
    rows = drawn(10, 300, (0.3, 2.0), seed=5)
    assert np.array_equal(drawn(4, 300, (0.3, 2.0), seed=5, first=6), rows[6:])
    assert not np.array_equal(drawn(10, 300, (0.3, 2.0), seed=6), rows)
    assert len(np.unique(rows)) > 2990
    negative = drawn(2, 300, 1.0, seed=-1)
    assert not np.array_equal(drawn(2, 300, 1.0, seed=1), negative)


@pytest.mark.slow
@pytest.mark.parametrize("interval", [(0.01, 0.01), (0.5, 2.0)])
def test_a_processor_without_wide_registers_draws_the_same_bits(interval, tmp_path):
    code = (
        "import sys, numpy; from mmlib import _cpu_kernels as compiled; out = numpy.empty((50, 37), numpy.float32); "
        "compiled.draw_dirichlet(out, 3, 0, *map(float, sys.argv[1:])); sys.stdout.buffer.write(out.tobytes())"
    )
    plain = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", code, *map(str, interval)]
    other = subprocess.run(command, check=True, env=os.environ | plain, stdout=subprocess.PIPE).stdout
    assert other == drawn(50, 37, interval, seed=3).tobytes()
