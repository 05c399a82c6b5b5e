"""Attention maps against loops; padding; half precision."""

import re

import pytest
import torch

from mmlib.attention import attention_map, softmax_attention_map
from tests.reference import mixtures

MAPS = [attention_map, softmax_attention_map]
HALVES = [torch.bfloat16, torch.float16]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def masks(m: int, r: int) -> torch.Tensor:
    """Real positions first, as many as the example's number, then padding; the first example is all padding."""
    return torch.arange(r) < torch.arange(m).unsqueeze(1)


def test_attention_is_a_rectified_and_normalised_inner_product():
    features = torch.randn(6, 4, 5, dtype=torch.float64, generator=generator())
    features[2] = 0  # no attention anywhere
    features[3, :, 1:] = -features[3, :, :1]  # its mean looks away from position 0
    attention = attention_map(features, features.mean(dim=2))
    torch.testing.assert_close(attention, mixtures.gap_attention(features))
    torch.testing.assert_close(attention.sum(1), torch.ones(6, dtype=torch.float64))
    assert torch.equal(attention[2], torch.full((5,), 0.2, dtype=torch.float64))
    assert bool((attention == 0).any())


def test_softmax_attention_is_the_softmax_of_inner_products():
    features = torch.randn(3, 4, 5, dtype=torch.float64, generator=generator())
    query = torch.randn(3, 4, dtype=torch.float64, generator=generator(1))
    for i, row in enumerate(softmax_attention_map(features, query)):
        powers = [sum(a * b for a, b in zip(query[i], features[i, :, j])).exp() for j in range(5)]
        torch.testing.assert_close(row, torch.stack(powers) / sum(powers))


@pytest.mark.parametrize("attend", MAPS)
def test_attention_to_one_query_for_all(attend):
    features, query = torch.randn(3, 4, 5, generator=generator()), torch.randn(4, generator=generator(1))
    torch.testing.assert_close(attend(features, query), attend(features, query.repeat(3, 1)))


@pytest.mark.parametrize("attend", MAPS)
def test_attention_has_finite_gradients_where_there_is_none(attend):
    features = torch.zeros(2, 3, 4, dtype=torch.float64, requires_grad=True)
    attend(features, torch.ones(2, 3, dtype=torch.float64)).square().sum().backward()
    assert bool(features.grad.isfinite().all())


@pytest.mark.parametrize("attend", MAPS)
@pytest.mark.parametrize("padding", [0.0, 1e30, float("nan")])
def test_padding_has_no_attention_and_no_influence(attend, padding):
    """Each example alone, cut to its real positions, is attended to alike; and so are the gradients."""
    m, r = 6, 5
    features = torch.randn(m, 4, r, dtype=torch.float64, generator=generator())
    features[3, :, :3] = -features[3, :, :1]  # for its query below, no attention at any real position
    query, mask = features[:, :, 0].clone(), masks(m, r)
    query[3] = -features[3, :, 1]
    features = features.masked_fill(~mask.unsqueeze(1), padding).requires_grad_()
    scale = torch.randn(m, r, dtype=torch.float64, generator=generator(2))
    attention = attend(features, query.requires_grad_(), mask)
    (attention * scale).sum().backward()
    assert torch.equal(attention[0], torch.zeros(r, dtype=torch.float64))
    for i in range(m):
        assert torch.equal(attention[i, i:], torch.zeros(r - min(i, r), dtype=torch.float64))
        real, asked = (x.detach().clone().requires_grad_() for x in (features[i : i + 1, :, :i], query[i : i + 1]))
        if i:
            expected = attend(real, asked)
            (expected * scale[i : i + 1, :i]).sum().backward()
            torch.testing.assert_close(attention[i : i + 1, :i], expected)
            torch.testing.assert_close(features.grad[i : i + 1, :, :i], real.grad)
            torch.testing.assert_close(query.grad[i : i + 1], asked.grad)
        assert bool((features.grad[i, :, i:] == 0).all())
    assert bool((query.grad[0] == 0).all())


def test_without_attention_anywhere_real_positions_are_attended_to_alike():
    attention = attention_map(torch.ones(3, 2, 4), -torch.ones(2), masks(3, 4))
    assert torch.equal(attention, torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0], [0.5, 0.5, 0, 0]]))


@pytest.mark.parametrize("attend", MAPS)
def test_a_mask_of_no_padding_changes_nothing(attend):
    features = torch.randn(3, 4, 5, generator=generator())
    query = features.mean(dim=2)
    assert torch.equal(attend(features, query, torch.ones(3, 5, dtype=torch.bool)), attend(features, query))


@pytest.mark.parametrize("attend", MAPS)
def test_a_mask_of_numbers_is_refused(attend, unchecked):
    with pytest.raises(TypeError, match=r"mask must be a boolean tensor, got torch\.int64"):
        attend(torch.ones(2, 3, 4), torch.ones(3), torch.ones(2, 4, dtype=torch.long))


@pytest.mark.parametrize("attend", MAPS)
@pytest.mark.parametrize("dtype", HALVES)
def test_attention_does_not_overflow_in_half_precision(attend, dtype):
    """The sum over 2048 products of mean 64 is beyond float16's largest number, 65504."""
    features = (8 + torch.randn(3, 2048, 6, generator=generator())).to(dtype).requires_grad_()
    query = features.detach().mean(dim=2)
    assert bool((features.detach()[0, :, 0].double() @ query[0].double()) > 65504)
    attention = attend(features, query)
    assert attention.dtype == torch.float32
    torch.testing.assert_close(attention, attend(features.detach().float(), query.float()))
    attention.square().sum().backward()
    assert bool(features.grad.isfinite().all())


@pytest.mark.parametrize("attend", MAPS)
@pytest.mark.parametrize("dtype", HALVES)
def test_autocast_does_not_round_attention(attend, dtype):
    features = 3 * torch.randn(3, 32, 6, generator=generator())
    query = features.mean(dim=2)
    expected = attend(features, query)
    with torch.autocast("cpu", dtype):
        assert torch.equal(attend(features, query), expected)


@pytest.mark.parametrize("attend", MAPS)
@pytest.mark.parametrize("shape", [(4, 6), (3, 5), (6,), (4, 5, 1)])
def test_queries_that_do_not_fit_are_named(attend, shape, unchecked):
    with pytest.raises(ValueError, match="query must have shape"):
        attend(torch.ones(4, 5, 2), torch.ones(shape))
    with pytest.raises(ValueError, match=r"mask must have shape \(4, 2\), got \(4, 3\)"):
        attend(torch.ones(4, 5, 2), torch.ones(5), torch.ones(4, 3, dtype=torch.bool))


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3])
def test_attention_has_no_scale(scale):
    features = torch.rand(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    query = features.mean(dim=2)
    torch.testing.assert_close(attention_map(scale * features, query), attention_map(features, query))


@pytest.mark.parametrize("attend", MAPS)
@pytest.mark.parametrize(
    ("features", "error", "words"),
    [
        ([[[1.0]]], TypeError, "features must be a tensor, got list"),
        (torch.zeros(4, 3), ValueError, "features must have shape (m, d, r), got (4, 3)"),
        (torch.zeros(0, 3, 4), ValueError, "features must have at least one example, got shape (0, 3, 4)"),
        (torch.zeros(2, 0, 4), ValueError, "features must have shape (m, d, r), each at least 1, got (2, 0, 4)"),
        (torch.zeros(2, 3, 0), ValueError, "features must have shape (m, d, r), each at least 1, got (2, 3, 0)"),
    ],
    ids=str,
)
def test_features_that_do_not_fit_are_named(attend, features, error, words, unchecked):
    with pytest.raises(error, match=f"^{re.escape(words)}$"):
        attend(features, torch.ones(3))


@pytest.mark.parametrize("attend", MAPS)
def test_a_query_that_is_no_tensor_or_does_not_fit_is_named_beside_the_features(attend, unchecked):
    with pytest.raises(TypeError, match=r"^query must be a tensor, got list$"):
        attend(torch.ones(4, 3, 2), [1.0, 1.0, 1.0])
    words = "query must have shape (3,), got (2,); features have shape (4, 3, 2)"
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        attend(torch.ones(4, 3, 2), torch.ones(2))


def test_padding_does_not_hide_that_real_positions_resemble_nothing():
    features, mask = torch.tensor([[[-1.0, -2.0, 5.0]]]), torch.tensor([[True, True, False]])
    assert attention_map(features, torch.ones(1), mask).tolist() == [[0.5, 0.5, 0.0]]
