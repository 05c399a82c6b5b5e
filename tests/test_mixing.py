"""Weights on the simplex against the Dirichlet's own formulas; interpolation and attention against loops."""

import inspect

import numpy as np
import pytest
import torch
from reference import mixtures
from scipy import stats

import mmlib.sampling
from mmlib import attention_map, mix, sample_mixing_weights
from mmlib.mixing import mix_dense

DTYPES = [torch.float32, torch.float64]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform_of(values: torch.Tensor, marginal) -> np.ndarray:
    """`values` through their supposed distribution function: uniform if the supposition is right.

    Floats cannot tell a weight below the smallest number from 0, nor one close to 1 from 1: there, a uniform
    draw within the share of the distribution that rounds to that value.
    """
    lowest, highest = torch.finfo(values.dtype).tiny, 1 - 64 * torch.finfo(values.dtype).eps
    below, above = marginal.cdf(lowest), marginal.cdf(highest)
    values, noise = values.double().numpy(), np.random.default_rng(1).random(len(values))
    inside = marginal.cdf(values)
    return np.where(values < lowest, noise * below, np.where(values > highest, above + noise * (1 - above), inside))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("alpha", [1e-300, 1e-38, 1e-3, 0.02, 0.3, (0.5, 2.0), 50.0, 1e3, 1e38, 1e300])
def test_weights_are_on_the_simplex(alpha, dtype):
    weights = sample_mixing_weights(700, 33, alpha, generator=generator(), dtype=dtype)
    assert weights.shape == (700, 33)
    assert weights.dtype == dtype
    assert bool((weights >= 0).all())
    torch.testing.assert_close(weights.sum(1), torch.ones(700, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [2, 5])
@pytest.mark.parametrize("alpha", [1e-3, 0.01, 0.05, 0.11, 0.5, 1.0, 2.0, 30.0, 1e3])
def test_marginals_are_beta(alpha, m, dtype):
    weights = sample_mixing_weights(20000, m, alpha, generator=generator(3), dtype=dtype)
    marginal = stats.beta(alpha, (m - 1) * alpha)
    for column in (0, m - 1):
        assert stats.kstest(uniform_of(weights[:, column], marginal), "uniform").pvalue > 1e-4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("alpha", [1e-3, 0.01])
def test_small_weights_have_the_right_logarithms(alpha, dtype):
    """Near zero a weight is U^(1/α) times a constant: few of them are zero, and their logarithms are exponential."""
    weights = sample_mixing_weights(20000, 3, alpha, generator=generator(4), dtype=dtype)[:, 0].double()
    tiny, low = torch.finfo(dtype).tiny, 1e-3
    logs = weights[(weights > tiny) & (weights < low)].log()
    share = stats.truncexpon(b=alpha * np.log(low / tiny), scale=1 / alpha)
    assert stats.kstest((np.log(low) - logs).numpy(), share.cdf).pvalue > 1e-4


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 8.0])
def test_moments(alpha):
    n, m = 40000, 6
    weights = sample_mixing_weights(n, m, alpha, generator=generator(1), dtype=torch.float64)
    torch.testing.assert_close(weights.mean(0), torch.full((m,), 1 / m, dtype=torch.float64), atol=0.01, rtol=0)
    covariance = (torch.eye(m, dtype=torch.float64) - 1 / m) / (m * (m * alpha + 1))
    torch.testing.assert_close(weights.T.cov(), covariance, atol=0.03 * float(covariance[0, 0]), rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
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


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_and_columns_are_independent_draws(dtype):
    weights = sample_mixing_weights(4096, 64, generator=generator(2), dtype=dtype).double()
    assert len(weights[:, 0].unique()) == 4096
    centred = weights - weights.mean(0)
    for shift in (1, 2, 64, 512, 1024):
        pairs = centred * centred.roll(shift, 0)
        assert abs(float(pairs.mean() / centred.square().mean())) < 5 / pairs.numel() ** 0.5


@pytest.mark.parametrize("dtype", DTYPES)
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


def test_without_a_generator_the_global_one_decides():
    torch.manual_seed(9)
    first, second = sample_mixing_weights(50, 5), sample_mixing_weights(50, 5)
    torch.manual_seed(9)
    assert torch.equal(sample_mixing_weights(50, 5), first)
    assert not torch.equal(first, second)
    assert torch.equal(sample_mixing_weights(50, 5, generator=generator(9)), first)


@pytest.mark.parametrize("alpha", [0.02, (0.5, 2.0)])
def test_blocks_are_the_rows_of_one_draw(monkeypatch, alpha):
    monkeypatch.setattr(mmlib.sampling, "BLOCK_ON_CPU", 4 * 300)
    whole, streamed = generator(7), generator(7)
    weights = sample_mixing_weights(10, 300, alpha, generator=whole)
    blocks = list(mmlib.sampling.iter_mixing_weights(10, 300, alpha, streamed, "cpu", None))
    assert [len(block) for block in blocks] == [4, 4, 2]
    assert torch.equal(torch.cat(blocks), weights)
    assert torch.equal(whole.get_state(), streamed.get_state())
    assert torch.equal(sample_mixing_weights(8, 300, alpha, generator=generator(7)), weights[:8])


def test_a_wide_mini_batch_is_drawn_row_by_row(monkeypatch):
    monkeypatch.setattr(mmlib.sampling, "BLOCK_ON_CPU", 10)
    assert sample_mixing_weights(3, 300).shape == (3, 300)


@pytest.mark.parametrize("alpha", [0.02, (0.5, 2.0)])
def test_threads_do_not_change_the_weights(alpha):
    threads, draws = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            draws.append(sample_mixing_weights(2100, 64, alpha, generator=generator(7)))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*draws, rtol=1e-6, atol=0)


def test_the_default_device_does_not_change_the_weights():
    expected = sample_mixing_weights(100, 64, generator=generator())
    with torch.device("meta"):
        assert torch.equal(sample_mixing_weights(100, 64, generator=generator(), device="cpu"), expected)


def test_half_precision_is_single_precision_rounded():
    weights = sample_mixing_weights(50, 9, generator=generator(7), dtype=torch.bfloat16)
    assert torch.equal(weights, sample_mixing_weights(50, 9, generator=generator(7)).bfloat16())


def test_default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        assert sample_mixing_weights(2, 3).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_one_example_has_all_the_weight():
    assert torch.equal(sample_mixing_weights(7, 1), torch.ones(7, 1))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_mixtures": 0, "m": 3}, "n is 0"),
        ({"num_mixtures": 2, "m": 0}, "m is 0"),
        ({"num_mixtures": 2.0, "m": 3}, "n is 2.0"),
        ({"num_mixtures": 2, "m": 3, "alpha": 0.0}, "alpha is 0.0"),
        ({"num_mixtures": 2, "m": 3, "alpha": -1.0}, "alpha is -1.0"),
        ({"num_mixtures": 2, "m": 3, "alpha": float("inf")}, "alpha is inf"),
        ({"num_mixtures": 2, "m": 3, "alpha": float("nan")}, "alpha is nan"),
        ({"num_mixtures": 2, "m": 3, "alpha": (2.0, 0.5)}, r"alpha is \(2.0, 0.5\)"),
        ({"num_mixtures": 2, "m": 3, "alpha": (0.5, 1.0, 2.0)}, r"alpha is \(0.5, 1.0, 2.0\)"),
        ({"num_mixtures": 2, "m": 3, "alpha": "1"}, "alpha is '1'"),
    ],
)
def test_impossible_mixtures_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        inspect.unwrap(mmlib.sampling.check_alpha)(**{"alpha": 1.0} | arguments)


def test_sampling_checks_its_arguments():
    for arguments in (
        {"num_mixtures": 0, "m": 3},
        {"num_mixtures": 2, "m": 0},
        {"num_mixtures": 2, "m": 3, "alpha": 0.0},
    ):
        with pytest.raises(ValueError, match="is 0"):
            sample_mixing_weights(**arguments)


def test_mix_is_a_weighted_sum():
    weights = sample_mixing_weights(4, 3, generator=generator(), dtype=torch.float64)
    values = torch.randn(3, 5, 2, dtype=torch.float64, generator=generator(1))
    expected = torch.stack([mixtures.mixture(row, values) for row in weights])
    torch.testing.assert_close(mix(weights, values), expected)
    torch.testing.assert_close(mix(weights, values[:, 0]), expected[:, 0])


def test_dense_mix_divides_by_the_attention_that_is_there():
    weights = torch.tensor([[0.3, 0.7, 0.0], [0.0, 0.5, 0.5]], dtype=torch.float64)
    attention = torch.tensor([[0.2, 0.0, 0.0, 1.0], [0.6, 0.0, 0.4, 0.0], [0.0, 0.0, 0.0, 5.0]], dtype=torch.float64)
    values = torch.randn(3, 4, 2, dtype=torch.float64, generator=generator())
    rows = torch.tensor(
        [[[0.06, 0.42, 0], [0.3, 0.7, 0], [0, 1, 0], [1, 0, 0]], [[0, 1, 0], [0, 1, 1], [0, 1, 0], [0, 0, 1]]]
    )
    rows = rows / rows.sum(2, keepdim=True)
    expected = torch.stack(
        [torch.stack([mixtures.mixture(rows[k, j], values[:, j]) for j in range(4)]) for k in (0, 1)]
    )
    torch.testing.assert_close(mix_dense(weights, attention, values), expected.double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        mix_dense(weights, attention, values[..., 0]), expected[..., 0].double(), rtol=1e-6, atol=0
    )


def test_attention_is_a_rectified_and_normalised_inner_product():
    features = torch.randn(6, 4, 5, dtype=torch.float64, generator=generator())
    features[2] = 0  # no attention anywhere
    features[3, :, 1:] = -features[3, :, :1]  # its mean looks away from position 0
    attention = attention_map(features, features.mean(dim=2))
    torch.testing.assert_close(attention, mixtures.gap_attention(features))
    torch.testing.assert_close(attention.sum(1), torch.ones(6, dtype=torch.float64))
    assert torch.equal(attention[2], torch.full((5,), 0.2, dtype=torch.float64))
    assert bool((attention == 0).any())


def test_attention_to_one_query_for_all():
    features, query = torch.randn(3, 4, 5, generator=generator()), torch.randn(4, generator=generator(1))
    torch.testing.assert_close(attention_map(features, query), attention_map(features, query.repeat(3, 1)))


def test_attention_has_finite_gradients_where_there_is_none():
    features = torch.zeros(2, 3, 4, dtype=torch.float64, requires_grad=True)
    attention_map(features, torch.ones(2, 3, dtype=torch.float64)).square().sum().backward()
    assert bool(features.grad.isfinite().all())


def test_autocast_does_not_round_what_is_mixed():
    weights = sample_mixing_weights(5, 7, generator=torch.Generator().manual_seed(0))
    values = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    exact = mix(weights, values)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mix(weights, values), exact)
