"""Mixing weights on the simplex against the Dirichlet's own formulas, drawn by numba and by torch."""

import re
import time

import numpy as np
import pytest
import torch
from scipy import stats

from mmlib import _backend, sample_mixing_weights
from mmlib.experiments.methods.sparse_multimix import sample_sparse_weights
from mmlib.sampling import check_alpha, iter_mixing_weights, resolve_devices


@pytest.fixture(params=["numba float32", "torch float32", "torch float64"])
def dtype(request, monkeypatch):
    """The type to draw weights in, by each of the two samplers that there are on the CPU."""
    sampler, name = request.param.split()
    if sampler == "torch":
        monkeypatch.setattr(_backend, "USE_NUMBA", False)
    return getattr(torch, name)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def to_uniform(values: torch.Tensor, marginal) -> np.ndarray:
    """Send `values` through their supposed distribution function: uniform if the supposition is right.

    Floats cannot tell a weight below the smallest number from 0, nor one close to 1 from 1: there, a uniform
    draw from the part of the distribution that rounds to that value.
    """
    lowest, highest = torch.finfo(values.dtype).tiny, 1 - 64 * torch.finfo(values.dtype).eps
    below, above = marginal.cdf(lowest), marginal.cdf(highest)
    values, noise = values.double().numpy(), np.random.default_rng(1).random(len(values))
    inside = marginal.cdf(values)
    return np.where(values < lowest, noise * below, np.where(values > highest, above + noise * (1 - above), inside))


# The samplers


@pytest.mark.parametrize("alpha", [1e-320, 1e-300, 1e-38, 1e-3, 0.02, 0.3, (0.5, 2.0), 50.0, 1e3, 1e38, 1e300, 1.7e308])
def test_weights_are_on_the_simplex(alpha, dtype):
    weights = sample_mixing_weights(700, 33, alpha, generator=generator(), dtype=dtype)
    assert weights.shape == (700, 33)
    assert weights.dtype == dtype
    assert bool((weights >= 0).all())
    torch.testing.assert_close(weights.sum(1), torch.ones(700, dtype=dtype))


@pytest.mark.parametrize("alpha", [(1e-300, 1e300), (1e-320, 1e-10), (0.4, 1e38), (1e-3, 1e3)])
def test_weights_of_wide_intervals_are_on_the_simplex(alpha, dtype):
    weights = sample_mixing_weights(700, 33, alpha, generator=generator(), dtype=dtype)
    torch.testing.assert_close(weights.sum(1), torch.ones(700, dtype=dtype))


@pytest.mark.parametrize("alpha", [1e-320, 1e-300, 1e-38, 1e-12])
def test_at_the_smallest_concentrations_a_mixture_is_one_example(alpha, dtype):
    weights = sample_mixing_weights(3000, 5, alpha, generator=generator(), dtype=dtype)
    assert torch.equal(weights.amax(1), torch.ones(3000, dtype=dtype))
    counts = weights.argmax(1).bincount(minlength=5)
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("alpha", [1e16, 1e30, 1e38, 1e300, 1.7e308])
def test_at_the_largest_concentrations_weights_are_equal(alpha, dtype):
    weights = sample_mixing_weights(300, 5, alpha, generator=generator(), dtype=dtype)
    torch.testing.assert_close(weights, torch.full_like(weights, 0.2), rtol=1e-6, atol=0)


@pytest.mark.parametrize("m", [2, 5])
@pytest.mark.parametrize("alpha", [1e-3, 0.01, 0.05, 0.11, 0.5, 1.0, 2.0, 30.0, 1e3])
def test_marginals_are_beta(alpha, m, dtype):
    weights = sample_mixing_weights(20000, m, alpha, generator=generator(3), dtype=dtype)
    marginal = stats.beta(alpha, (m - 1) * alpha)
    for column in (0, m - 1):
        assert stats.kstest(to_uniform(weights[:, column], marginal), "uniform").pvalue > 1e-4


@pytest.mark.parametrize("alpha", [1e-3, 0.01])
def test_small_weights_have_the_right_logarithms(alpha, dtype):
    """Near zero a weight is U^(1/α) times a constant: few of them are zero, and their logarithms are exponential."""
    weights = sample_mixing_weights(20000, 3, alpha, generator=generator(4), dtype=dtype)[:, 0].double()
    tiny, low = torch.finfo(dtype).tiny, 1e-3
    logs = weights[(weights > tiny) & (weights < low)].log()
    expected = stats.truncexpon(b=alpha * np.log(low / tiny), scale=1 / alpha)
    assert stats.kstest((np.log(low) - logs).numpy(), expected.cdf).pvalue > 1e-4


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 8.0])
def test_moments(alpha, dtype):
    n, m = 40000, 6
    weights = sample_mixing_weights(n, m, alpha, generator=generator(1), dtype=dtype).double()
    torch.testing.assert_close(weights.mean(0), torch.full((m,), 1 / m, dtype=torch.float64), atol=0.01, rtol=0)
    covariance = (torch.eye(m, dtype=torch.float64) - 1 / m) / (m * (m * alpha + 1))
    torch.testing.assert_close(weights.T.cov(), covariance, atol=0.03 * float(covariance[0, 0]), rtol=0)


@pytest.mark.parametrize("interval", [(0.5, 2.0), (0.01, 0.2), (0.05, 5.0), (3.0, 200.0)])
def test_a_pair_draws_every_row_its_own_concentration(interval, dtype):
    n, m = 20000, 16
    weights = sample_mixing_weights(n, m, interval, generator=generator(5), dtype=dtype)
    random = np.random.default_rng(6)
    gamma = random.standard_gamma(np.broadcast_to(random.uniform(*interval, (n, 1)), (n, m)))
    expected = gamma / gamma.sum(1, keepdims=True)
    weights, expected = (np.maximum(x, torch.finfo(dtype).tiny) for x in (weights.double().numpy(), expected))
    for statistic in (lambda x: (x**2).sum(1), lambda x: x.max(1), lambda x: x[:, 3]):
        assert stats.ks_2samp(statistic(weights), statistic(expected)).pvalue > 1e-4


def test_rows_and_columns_are_independent_draws(dtype):
    weights = sample_mixing_weights(4096, 64, generator=generator(2), dtype=dtype).double()
    assert len(weights[:, 0].unique()) == 4096
    centred = weights - weights.mean(0)
    for shift in (1, 2, 64, 512, 1024):
        pairs = centred * centred.roll(shift, 0)
        assert abs(float(pairs.mean() / centred.square().mean())) < 5 / pairs.numel() ** 0.5


def test_numba_draws_the_weights_that_it_always_drew():
    weights = sample_mixing_weights(4, 3, generator=generator(), dtype=torch.float32)
    assert weights[0].tolist() == [0.5278540849685669, 0.011928456835448742, 0.46021750569343567]


def test_torch_draws_the_weights_that_it_always_drew():
    weights = sample_mixing_weights(4, 3, generator=generator(), dtype=torch.float64)
    assert weights[0].tolist() == pytest.approx([0.3174595708379008, 0.22020024804580232, 0.462340181116297], rel=1e-14)


# Sources of randomness, devices and types


@pytest.mark.parametrize("alpha", [0.02, (0.5, 2.0)])
def test_a_generator_decides_the_weights(alpha, dtype):
    def draw(source):
        return sample_mixing_weights(300, 17, alpha, generator=source, dtype=dtype)

    source = generator(7)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, state = draw(source), source.get_state()
    second = draw(source)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(draw(generator(7)), first)
    assert not torch.equal(first, second)
    assert torch.equal(draw(generator().set_state(state)), second)
    assert not torch.equal(draw(generator(8)), first)


def test_without_a_generator_the_global_one_decides(dtype):
    torch.manual_seed(9)
    first, second = (sample_mixing_weights(50, 5, dtype=dtype) for _ in range(2))
    torch.manual_seed(9)
    assert torch.equal(sample_mixing_weights(50, 5, dtype=dtype), first)
    assert not torch.equal(first, second)
    assert torch.equal(sample_mixing_weights(50, 5, generator=generator(9), dtype=dtype), first)


@pytest.mark.parametrize("alpha", [0.02, (0.5, 2.0)])
def test_blocks_are_the_rows_of_one_draw(monkeypatch, alpha, dtype):
    monkeypatch.setattr("mmlib.sampling.CPU_BLOCK_ELEMENTS", 4 * 300)
    whole, streamed = generator(7), generator(7)
    weights = sample_mixing_weights(10, 300, alpha, generator=whole, dtype=dtype)
    blocks = list(iter_mixing_weights(10, 300, alpha, generator=streamed, device="cpu", dtype=dtype))
    assert [len(block) for block in blocks] == [4, 4, 2]
    assert torch.equal(torch.cat(blocks), weights)
    assert torch.equal(whole.get_state(), streamed.get_state())
    assert torch.equal(sample_mixing_weights(8, 300, alpha, generator=generator(7), dtype=dtype), weights[:8])


@pytest.mark.parametrize("alpha", [0.05, 1.0, 30.0])
def test_blocks_together_have_beta_marginals(monkeypatch, alpha, dtype):
    monkeypatch.setattr("mmlib.sampling.CPU_BLOCK_ELEMENTS", 5 * 700)
    blocks = list(iter_mixing_weights(20000, 5, alpha, generator=generator(3), dtype=dtype))
    assert [len(block) for block in blocks] == [700] * 28 + [400]
    marginal = stats.beta(alpha, 4 * alpha)
    for column in (0, 4):
        weights = torch.cat([block[:, column] for block in blocks])
        assert stats.kstest(to_uniform(weights, marginal), "uniform").pvalue > 1e-4


def test_blocks_are_the_default_draw_and_as_large_as_they_always_were(monkeypatch):
    """A generator gives torch's gamma variates in another order where blocks have another size."""
    blocks = iter_mixing_weights(4, 3, generator=generator())
    assert torch.equal(torch.cat([*blocks]), sample_mixing_weights(4, 3, generator=generator()))
    monkeypatch.setattr(_backend, "USE_NUMBA", False)
    monkeypatch.setattr("mmlib.sampling._iter_torch", lambda sizes, *_: (torch.empty(size, 0) for size in sizes))
    for device, expected in (("cpu", [32, 32, 6]), ("meta", [70])):
        assert [len(block) for block in iter_mixing_weights(70, 2**12, device=device)] == expected
    assert [len(block) for block in iter_mixing_weights(5, 2**22, device="meta")] == [2, 2, 1]


def test_a_wide_mini_batch_is_drawn_row_by_row(monkeypatch, dtype):
    monkeypatch.setattr("mmlib.sampling.CPU_BLOCK_ELEMENTS", 10)
    blocks = list(iter_mixing_weights(3, 300, dtype=dtype))
    assert [block.shape for block in blocks] == [(1, 300)] * 3
    torch.testing.assert_close(torch.cat(blocks).sum(1), torch.ones(3, dtype=dtype))


@pytest.mark.parametrize("alpha", [0.02, (0.5, 2.0)])
def test_threads_do_not_change_the_weights(alpha, dtype):
    threads, draws = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            draws.append(sample_mixing_weights(2100, 64, alpha, generator=generator(7), dtype=dtype))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*draws, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("source", "device", "default", "expected"),
    [
        (None, None, "cpu", ("cpu", "cpu")),
        (None, None, "meta", ("meta", "meta")),
        (None, "cpu", "meta", ("cpu", "cpu")),
        (generator(), None, "meta", ("cpu", "cpu")),
        (generator(), "cpu", "meta", ("cpu", "cpu")),
        (None, "cuda:1", "cpu", ("cuda:1", "cuda:1")),
        (generator(), "mps", "cpu", ("cpu", "mps")),  # whose weights are drawn on the CPU
    ],
)
def test_devices_are_the_arguments_the_generators_or_the_default(source, device, default, expected):
    with torch.device(default):
        assert resolve_devices(source, device) == tuple(map(torch.device, expected))


def test_arguments_decide_where_to_draw_before_the_default_device_does(dtype):
    expected = sample_mixing_weights(100, 64, generator=generator(), dtype=dtype)
    sparse = sample_sparse_weights(100, 64, 3, generator=generator(), dtype=dtype)
    torch.manual_seed(0)
    with torch.device("meta"):
        source = torch.Generator("cpu").manual_seed(0)
        assert torch.equal(sample_mixing_weights(100, 64, generator=source, dtype=dtype), expected)
        assert torch.equal(sample_mixing_weights(100, 64, device="cpu", dtype=dtype), expected)
        source = torch.Generator("cpu").manual_seed(0)
        assert torch.equal(sample_sparse_weights(100, 64, 3, generator=source, dtype=dtype), sparse)
        try:
            weights = sample_mixing_weights(100, 64, dtype=dtype)
        except NotImplementedError as error:
            pytest.skip(f"torch {torch.__version__} draws no gamma variables there: {error}")
    assert weights.device.type == "meta"


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "meta"])
def test_a_generator_on_another_device_is_refused(device, dtype):
    message = re.escape(f"generator must be on {device} to draw weights for {device}, got cpu")
    with pytest.raises(ValueError, match=message):
        sample_mixing_weights(2, 3, generator=generator(), device=device, dtype=dtype)
    with pytest.raises(ValueError, match=message):
        sample_sparse_weights(2, 3, 2, generator=generator(), device=device, dtype=dtype)


def test_a_seed_is_no_generator(unchecked):
    with pytest.raises(TypeError, match=r"^generator must be Generator or None, got 0"):
        resolve_devices(0, None)


def test_weights_for_mps_are_drawn_on_the_cpu_and_moved(dtype, monkeypatch):
    """No machine of these tests has the device: what is asked of it is only the last move."""
    moves, move = [], torch.Tensor.to

    def record(tensor, *arguments):
        moves.append(arguments)
        return move(tensor, arguments[-1])

    expected = sample_mixing_weights(2, 3, generator=generator(), dtype=dtype)
    monkeypatch.setattr(torch.Tensor, "to", record)
    weights = sample_mixing_weights(2, 3, generator=generator(), device="mps", dtype=dtype)
    assert moves[-1] == (torch.device("mps"), dtype)
    assert torch.equal(weights, expected)


@pytest.mark.parametrize("sampler", ["numba", "torch"])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_single_precision_rounded(half, sampler, monkeypatch):
    if sampler == "torch":
        monkeypatch.setattr(_backend, "USE_NUMBA", False)
    weights = sample_mixing_weights(50, 9, generator=generator(7), dtype=half)
    assert torch.equal(weights, sample_mixing_weights(50, 9, generator=generator(7), dtype=torch.float32).to(half))


def test_default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        assert sample_mixing_weights(2, 3).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_one_example_has_all_the_weight(dtype):
    assert torch.equal(sample_mixing_weights(7, 1, dtype=dtype), torch.ones(7, 1, dtype=dtype))


# Sparse weights


def test_sparse_weights_are_mixtures_of_a_few_random_examples(dtype):
    weights = sample_sparse_weights(5000, 6, 2, 0.7, generator=generator(), dtype=dtype)
    assert weights.dtype == dtype
    chosen = weights > 0
    assert torch.equal(chosen.sum(1), torch.full((5000,), 2))
    pairs = chosen.double().T @ chosen.double()
    i, j = torch.triu_indices(6, 6, 1)
    assert stats.chisquare(pairs[i, j]).pvalue > 1e-4  # every pair of examples alike
    values = weights[chosen].view(5000, 2)
    assert stats.kstest(to_uniform(values[:, 0], stats.beta(0.7, 0.7)), "uniform").pvalue > 1e-4
    torch.testing.assert_close(weights.sum(1), torch.ones(5000, dtype=dtype))


# Arguments


def test_numbers_of_numpy_and_torch_are_numbers():
    expected = sample_mixing_weights(20, 3, 0.5, generator=generator())
    for count in (np.int64, np.uint8, torch.tensor):
        for number in (np.float64, torch.tensor):
            weights = sample_mixing_weights(count(20), count(3), number(0.5), generator=generator())
            assert torch.equal(weights, expected)
    assert sample_sparse_weights(np.int64(20), torch.tensor(3), np.int32(2)).shape == (20, 3)
    assert check_alpha([np.float32(0.5), torch.tensor(2)]) == (0.5, 2.0)
    assert [type(x) for x in check_alpha(torch.tensor(2))] == [float, float]


@pytest.mark.parametrize(
    ("alpha", "error"),
    [
        (0.0, ValueError),
        (-1.0, ValueError),
        (float("inf"), ValueError),
        (float("nan"), ValueError),
        ((2.0, 0.5), ValueError),
        ((0.5, float("inf")), ValueError),
        ((0.0, 1.0), ValueError),
        ((0.5, 1.0, 2.0), ValueError),
        ((), ValueError),
        ("1", TypeError),
        (("a", 1.0), TypeError),
        (True, TypeError),
        (None, TypeError),
    ],
)
def test_impossible_concentrations_are_refused(alpha, error, unchecked):
    message = f"alpha must be a positive number or a pair (low, high) with 0 < low <= high, got {alpha!r}"
    with pytest.raises(error, match=re.escape(message)):
        check_alpha(alpha)
    with pytest.raises(error, match=re.escape(message)):
        sample_mixing_weights(2, 3, alpha)


def test_one_concentration_where_a_pair_will_not_do(unchecked):
    assert check_alpha(0.5, "rate", pair=False) == (0.5, 0.5)
    for value in (0, (0.5, 2.0)):
        with pytest.raises((TypeError, ValueError), match=r"^rate must be a positive number, got "):
            check_alpha(value, "rate", pair=False)


@pytest.mark.parametrize(
    ("counts", "error", "message"),
    [
        ((0, 3), ValueError, "num_mixtures must be an integer >= 1, got 0"),
        ((2, -1), ValueError, "num_examples must be an integer >= 1, got -1"),
        ((2.0, 3), TypeError, "num_mixtures must be an integer >= 1, got 2.0"),
        ((2, "3"), TypeError, "num_examples must be an integer >= 1, got '3'"),
        ((True, 3), TypeError, "num_mixtures must be an integer >= 1, got True"),
        ((2, 3, 0), ValueError, "examples_per_mixture must be an integer >= 1, got 0"),
        ((2, 3, 2.0), TypeError, "examples_per_mixture must be an integer >= 1, got 2.0"),
        ((2, 3, 4), ValueError, "examples_per_mixture must be at most num_examples=3, got 4"),
    ],
)
def test_impossible_counts_are_refused(counts, error, message, unchecked):
    with pytest.raises(error, match=re.escape(message)):
        (sample_sparse_weights if len(counts) == 3 else sample_mixing_weights)(*counts)


def test_more_weights_than_memory_holds_fail_before_they_are_drawn():
    start = time.perf_counter()
    with pytest.raises(RuntimeError, match="allocate"):
        sample_mixing_weights(10**12, 10**6)
    assert time.perf_counter() - start < 10
