"""Interpolation, plain and dense, against weighted sums in loops."""

import pytest
import torch

from mmlib import mix, sample_mixing_weights
from mmlib.mixing import accumulation_dtype, clamp_attention, mix_dense
from tests.reference import mixtures

HALVES = [torch.bfloat16, torch.float16]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


def test_without_attention_a_mixture_keeps_its_own_weights():
    weights = torch.tensor([[0.25, 0.75]])
    mixed = mix_dense(weights, torch.zeros(2, 3), torch.tensor([[4.0, 0, 8], [8.0, 4, 0]]))
    torch.testing.assert_close(mixed, torch.tensor([[7.0, 3.0, 2.0]]))


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64])
def test_attention_is_clamped_at_1e_20_in_single_precision_at_least(dtype):
    given = torch.tensor([[0.0, -1.0, 0.25, 3.0]], dtype=dtype)
    clamped = clamp_attention(given)
    assert clamped.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert clamped.tolist()[0] == pytest.approx([1e-20, 1e-20, 0.25, 3.0], rel=1e-7)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64])
def test_sums_are_in_single_precision_at_least(dtype):
    digits = max(torch.finfo(dtype).bits, 32)
    assert accumulation_dtype(dtype) == {32: torch.float32, 64: torch.float64}[digits]


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("halves", ["weights", "values", "both"])
def test_half_precision_is_mixed_in_single_precision(half, halves):
    weights = sample_mixing_weights(5, 7, generator=generator())
    attention, values = torch.rand(7, 2, generator=generator(1)), torch.randn(7, 2, 3, generator=generator(2))
    weights = weights.to(half) if halves != "values" else weights
    attention, values = (x.to(half) if halves != "weights" else x for x in (attention, values))
    exact = weights.double(), attention.double(), values.double()
    for found, expected in (
        (mix(weights, values), mix(exact[0], exact[2])),
        (mix_dense(weights, attention, values), mix_dense(*exact)),
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_autocast_does_not_round_what_is_mixed():
    weights, values = sample_mixing_weights(5, 7, generator=generator()), torch.randn(7, 3, generator=generator(1))
    attention = torch.rand(7, 3, generator=generator(2))
    plain, dense = mix(weights, values), mix_dense(weights, attention, values)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mix(weights, values), plain)
        assert torch.equal(mix_dense(weights, attention, values), dense)


def test_shapes_that_do_not_fit_are_named(unchecked):
    weights = torch.full((5, 4), 0.25)
    for values in (torch.ones(3, 2), torch.ones(5, 4)):
        with pytest.raises(ValueError, match=r"values must have shape \(4, \.\.\.\) for these mixing_weights, got"):
            mix(weights, values)
    with pytest.raises(ValueError, match=r"mixing_weights must have shape \(n, m\), got \(4,\)"):
        mix(weights[0], torch.ones(4, 2))
    for interpolate in (mix, lambda weights, values: mix_dense(weights, torch.ones(4, 3), values)):
        with pytest.raises(TypeError, match="values must be a tensor, got list"):
            interpolate(weights, [1.0, 2.0, 3.0, 4.0])
    with pytest.raises(ValueError, match=r"attention must have shape \(4, 3\), got \(3, 4\)"):
        mix_dense(weights, torch.ones(3, 4), torch.ones(4, 3, 2))
