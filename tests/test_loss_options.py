"""Class weights, smoothing, ignored labels, masks and reductions against literal loops, on every path of the losses."""

import copy
import inspect
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import mmlib._backend
from mmlib import (
    DenseMultiMixLoss,
    MultiMixBCELoss,
    MultiMixLoss,
    dense_mixed_cross_entropy,
    mixed_binary_cross_entropy,
    mixed_cross_entropy,
    sample_mixing_weights,
)
from mmlib.attention import softmax_attention_map
from mmlib.losses import is_affine
from tests.pretend_cuda import pretend
from tests.reference import mixtures

M, R, D, C, N = 6, 4, 5, 3, 7
LABELS = torch.tensor([0, 1, -100, 2, 1, -100])
WEIGHT = torch.tensor([0.5, 1.0, 3.0], dtype=torch.double)
MASK = torch.arange(R) < torch.tensor([4, 2, 0, 1, 3, 4])[:, None]  # the second example has nothing


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.double, generator=generator(seed))


def leaf(value: torch.Tensor) -> torch.Tensor:
    return value.detach().clone().requires_grad_()


def make_weights() -> torch.Tensor:
    """Three drawn mixtures, pairs, one of ignored examples alone, and one example by itself."""
    pairs = torch.zeros(4, M, dtype=torch.double)
    pairs[0, 0] = pairs[0, 1] = 0.5
    pairs[1, 1], pairs[1, 2] = 0.25, 0.75
    pairs[2, 2], pairs[2, 5] = 0.5, 0.5
    pairs[3, 3] = 1
    return torch.cat([sample_mixing_weights(3, M, generator=generator(1), dtype=torch.double), pairs])


@pytest.fixture(params=["double", "numba", "torch"])
def path(request, monkeypatch):
    """The dtype, and how closely it agrees with the reference; `torch` is the path of a GPU in single precision."""
    monkeypatch.setattr(mmlib._backend, "USE_NUMBA", request.param != "torch")
    if request.param == "double":
        return torch.double, {"rtol": 1e-10, "atol": 1e-12}
    return torch.float32, {"rtol": 3e-5, "atol": 1e-6}


def assert_same(ours, expected, logits, expected_logits, dtype, close):
    """Value and gradient; a loss per mixture is weighted by its number, so that no gradient is like another."""
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), expected, **close)
    scale = torch.arange(1, 1 + max(1, ours.numel()), dtype=torch.double).view(ours.shape)
    (ours * scale.to(dtype)).sum().backward()
    (expected * scale).sum().backward()
    torch.testing.assert_close(logits.grad.double(), expected_logits.grad, **close)


OPTIONS = [
    {},
    {"weight": WEIGHT},
    {"label_smoothing": 0.3},
    {"weight": WEIGHT, "label_smoothing": 0.3},
]
REDUCTIONS = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])


def of_reference(options: dict) -> dict:
    return {"weight": options.get("weight"), "smoothing": options.get("label_smoothing", 0.0)}


def in_dtype(options: dict, dtype: torch.dtype) -> dict:
    return {name: value.to(dtype) if name == "weight" else value for name, value in options.items()}


@REDUCTIONS
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
@pytest.mark.parametrize("ignored", [False, True])
def test_plain_options(path, reduction, options, ignored):
    dtype, close = path
    labels, kept = (LABELS, LABELS >= 0) if ignored else (torch.arange(M) % C, None)
    logits, exact = leaf(randn(M, C).to(dtype)), leaf(randn(M, C))
    ours = mixed_cross_entropy(
        logits, labels, mixing_weights=make_weights().to(dtype), reduction=reduction, **in_dtype(options, dtype)
    )
    one_hot = F.one_hot(labels.clamp(min=0), C).double()
    expected = mixtures.multimix(exact, lambda z: z, one_hot, make_weights(), kept, reduction, **of_reference(options))
    assert_same(ours, expected, logits, exact, dtype, close)
    if ignored:
        assert bool((logits.grad[~kept] == 0).all())


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[3]], ids=["plain", "weight-smoothing"])
def test_weights_that_are_given_get_gradients(path, options, ignored):
    dtype, close = path
    labels, kept = (LABELS, LABELS >= 0) if ignored else (torch.arange(M) % C, None)
    weights, logits = randn(7, M, seed=2).softmax(1), randn(M, C)  # none is 0, where the loops leave a term out
    given, exact = leaf(weights.to(dtype)), leaf(weights)
    ours = mixed_cross_entropy(logits.to(dtype), labels, mixing_weights=given, **in_dtype(options, dtype))
    one_hot = F.one_hot(labels.clamp(min=0), C).double()
    expected = mixtures.multimix(logits, lambda z: z, one_hot, exact, kept, "mean", **of_reference(options))
    assert_same(ours, expected, given, exact, dtype, close)


@REDUCTIONS
@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[3]], ids=["plain", "weight-smoothing"])
@pytest.mark.parametrize("targets", ["labels", "labels per position", "distributions"])
def test_dense_options(path, reduction, options, targets):
    dtype, close = path
    mask = MASK
    if targets == "labels":
        given = LABELS
        mask = MASK & (LABELS >= 0)[:, None]
        full = F.one_hot(LABELS.clamp(min=0), C).double()[:, None].expand(M, R, C)
    elif targets == "labels per position":
        given = torch.randint(C, (M, R), generator=generator(5))
        given[0, 1], given[4] = -100, -100
        mask = MASK & (given >= 0)
        full = F.one_hot(given.clamp(min=0), C).double()
        given = given.masked_fill(~MASK, 77)  # padding is not looked at
    else:
        full = randn(M, R, C, seed=3).softmax(-1)
        given = full.to(dtype).masked_fill(~MASK[..., None], torch.nan) if targets == "distributions" else full
    attention = randn(M, R, seed=4).abs()
    attention[3], attention[:, 2] = 0, 0
    logits, exact = leaf(randn(M, R, C).to(dtype)), leaf(randn(M, R, C))
    ours = dense_mixed_cross_entropy(
        logits.masked_fill(~MASK[..., None], torch.nan),
        given if targets != "distributions" else given.nan_to_num(0.5),
        attention.to(dtype).masked_fill(~MASK, torch.nan),
        mask=MASK,
        mixing_weights=make_weights().to(dtype),
        reduction=reduction,
        **in_dtype(options, dtype),
    )
    expected = mixtures.dense_multimix(
        exact.mT, lambda z: z, full, attention, make_weights(), mask, reduction, **of_reference(options)
    )
    assert_same(ours, expected, logits, exact, dtype, close)


@pytest.mark.parametrize("wanted", ["targets", "attention", "mixing_weights"])
def test_gradients_beside_the_logits_with_a_mask(wanted):
    def inputs():
        values = {
            "targets": randn(M, R, C, seed=3).softmax(-1),
            "attention": randn(M, R, seed=4).abs(),
            "mixing_weights": make_weights()[:4],
        }
        return {name: leaf(value) if name == wanted else value for name, value in values.items()}

    ours, theirs = inputs(), inputs()
    dense_mixed_cross_entropy(randn(M, R, C), mask=MASK, weight=WEIGHT, label_smoothing=0.2, **ours).backward()
    values = theirs["targets"], theirs["attention"], theirs["mixing_weights"]
    classes = {"weight": WEIGHT, "smoothing": 0.2}
    mixtures.dense_multimix(randn(M, R, C).mT, lambda z: z, *values, MASK, **classes).backward()
    torch.testing.assert_close(ours[wanted].grad, theirs[wanted].grad, rtol=1e-9, atol=1e-12)


@REDUCTIONS
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
def test_it_is_cross_entropy_of_mixed_targets(path, reduction, options):
    dtype, close = path
    weights, labels = (
        sample_mixing_weights(9, M, generator=generator(1), dtype=torch.double).to(dtype),
        LABELS.abs() % C,
    )
    logits, options = randn(M, C).to(dtype), in_dtype(options, dtype)
    ours = mixed_cross_entropy(logits, labels, mixing_weights=weights, reduction=reduction, **options)
    mixed = weights @ F.one_hot(labels, C).to(dtype)
    expected = F.cross_entropy(weights @ logits, mixed, reduction=reduction, **options)
    torch.testing.assert_close(ours, expected, **close)


def test_drawn_mixtures_leave_ignored_examples_out_exactly(path):
    dtype, close = path
    logits, source = leaf(randn(M, C).to(dtype)), generator(3)
    logits.data[2] = torch.nan  # whatever they are
    loss, weights = mixed_cross_entropy(logits, LABELS, 50, generator=source, return_mixing_weights=True)
    loss.backward()
    kept = LABELS >= 0
    rest = weights[:, kept] / weights[:, kept].sum(1, keepdim=True)
    others = leaf(randn(M, C)[kept])
    expected = mixed_cross_entropy(others, LABELS[kept], mixing_weights=rest.double())
    expected.backward()
    torch.testing.assert_close(loss.double(), expected, **close)
    torch.testing.assert_close(logits.grad[kept].double(), others.grad, **close)
    assert bool((logits.grad[~kept] == 0).all())
    again = mixed_cross_entropy(logits, LABELS, 50, generator=generator(3))
    torch.testing.assert_close(again, loss)  # Λ drawn as a whole is Λ drawn in blocks


@REDUCTIONS
def test_all_ignored_is_zero_with_a_gradient(path, reduction):
    dtype, _ = path
    nobody = torch.full((M,), -100)
    for loss, logits in ((mixed_cross_entropy, leaf(randn(M, C).to(dtype))), (None, leaf(randn(M, R, C).to(dtype)))):
        if loss is None:
            value = dense_mixed_cross_entropy(logits, nobody, torch.ones(M, R, dtype=dtype), N, reduction=reduction)
        else:
            value = loss(logits, nobody, N, reduction=reduction)
        assert value.shape == ((N,) if reduction == "none" else ())
        value.sum().backward()
        assert bool((value == 0).all())
        assert bool((logits.grad == 0).all())


@pytest.mark.parametrize("everything", [True, False], ids=["all", "some"])
def test_no_argument_is_overwritten(path, everything):
    dtype, _ = path
    labels, options = LABELS.clamp(min=0), {"mixing_weights": make_weights().to(dtype), "weight": WEIGHT.to(dtype)}
    attention, mask = torch.rand(M, R, dtype=dtype, generator=generator(2)), None
    if not everything:
        labels, mask = LABELS.clone(), MASK.clone()
    for logits in (randn(M, C), randn(C, M).T, randn(M, R, C), randn(M, C, R).mT):
        logits = logits.to(dtype).requires_grad_()
        given = [x for x in (logits, labels, attention, mask, *options.values()) if x is not None]
        before = copy.deepcopy([x.detach() for x in given])
        if logits.ndim == 2:
            mixed_cross_entropy(logits, labels, **options).backward()
        else:
            dense_mixed_cross_entropy(logits, labels, attention, mask=mask, **options).backward()
        assert all(map(torch.equal, given, before))


INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64)


def test_label_kinds_are_alike(path):
    dtype, close = path
    logits, labels, weights = randn(M, C).to(dtype), LABELS.abs() % C, make_weights().to(dtype)
    expected = mixed_cross_entropy(logits, labels, mixing_weights=weights)
    one_hot = F.one_hot(labels, C)
    for given in (*map(labels.to, INTEGERS), one_hot, one_hot.bool(), one_hot.to(dtype)):
        torch.testing.assert_close(mixed_cross_entropy(logits, given, mixing_weights=weights), expected, **close)
    attention = torch.ones(M, R, dtype=dtype)
    dense = logits[:, None].expand(M, R, C)
    per_position = labels[:, None].expand(M, R)
    of_integers = (*map(labels.to, INTEGERS), *map(per_position.to, INTEGERS))
    for given in (*of_integers, one_hot, one_hot.bool(), one_hot[:, None].expand(M, R, C)):
        value = dense_mixed_cross_entropy(dense, given, attention, mixing_weights=weights)
        torch.testing.assert_close(value, expected, **close)
    background = labels.to(torch.uint8).masked_fill(labels == 1, 255)
    torch.testing.assert_close(
        mixed_cross_entropy(logits, background, mixing_weights=weights, ignore_index=255),
        mixed_cross_entropy(logits, labels, mixing_weights=weights, ignore_index=1),
    )


def test_one_hot_rows_and_labels_per_position_are_never_confused():
    logits, attention = randn(M, C, C), torch.ones(M, C)
    labels = torch.randint(C, (M, C), generator=generator(5))
    with pytest.raises(ValueError, match="must not be both class indices per position and one-hot rows"):
        dense_mixed_cross_entropy(logits, labels, attention, 5)
    weights = make_weights()
    full = F.one_hot(labels, C)
    expected = mixtures.dense_multimix(logits.mT, lambda z: z, full.double(), attention.double(), weights)
    torch.testing.assert_close(dense_mixed_cross_entropy(logits, full, attention, mixing_weights=weights), expected)
    rows = F.one_hot(labels[:, 0], C).bool()
    expected = dense_mixed_cross_entropy(logits, labels[:, 0], attention, mixing_weights=weights)
    torch.testing.assert_close(dense_mixed_cross_entropy(logits, rows, attention, mixing_weights=weights), expected)


@REDUCTIONS
def test_impossible_classes(path, reduction):
    """Logits of -inf: the class has probability 0; a label there costs infinitely much, else nothing."""
    dtype, close = path
    logits, exact = leaf(randn(M, C).to(dtype)), leaf(randn(M, C))
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    inputs = [x.masked_fill(torch.tensor([False, False, True]), -torch.inf) for x in (logits, exact)]
    ours = mixed_cross_entropy(inputs[0], labels, mixing_weights=make_weights().to(dtype), reduction=reduction)
    expected = mixtures.multimix(inputs[1], lambda z: z, F.one_hot(labels, C).double(), make_weights(), None, reduction)
    assert_same(ours, expected, logits, exact, dtype, close)
    some = logits.detach().clone()
    some[3, 1] = -torch.inf
    value = mixed_cross_entropy(some, labels, mixing_weights=make_weights().to(dtype), reduction=reduction)
    if reduction == "none":
        assert value.isinf().tolist() == [True] * 3 + [False] * 3 + [True]
        torch.testing.assert_close(
            value[3:6],
            mixed_cross_entropy(logits.detach(), labels, mixing_weights=make_weights().to(dtype), reduction="none")[
                3:6
            ],
        )
    else:
        assert value == torch.inf


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("label", [C, -1, 10**6])
def test_labels_out_of_range_on_a_device_that_cannot_be_asked_make_the_loss_nan(label, reduction):
    labels = LABELS.where(LABELS != 2, label)
    with pretend():
        logits, attention = randn(M, C).to("cuda"), torch.rand(M, 4).to("cuda")
        logits.requires_grad_()
        plain = mixed_cross_entropy(logits, labels.to("cuda"), 5, reduction=reduction)
        weights = sample_mixing_weights(5, M).to("cuda")
        given = mixed_cross_entropy(logits, labels.to("cuda"), mixing_weights=weights, reduction=reduction)
        every = logits.unsqueeze(1).expand(-1, 4, -1)
        dense = dense_mixed_cross_entropy(every, labels.to("cuda"), attention, 5, reduction=reduction)
        (plain.sum() + dense.sum()).backward()
        for found in (plain, given, dense, logits.grad[LABELS == 2]):
            assert found.cpu().isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_are_accepted(dtype):
    logits, labels = randn(4, C).float(), torch.arange(4) % C
    weights = sample_mixing_weights(1000, 4, 1.0, generator=generator(0), dtype=dtype)
    loss = mixed_cross_entropy(logits, labels, mixing_weights=weights)
    rows = weights.double() / weights.double().sum(1, keepdim=True)
    torch.testing.assert_close(loss.double(), mixed_cross_entropy(logits.double(), labels, mixing_weights=rows))
    with pytest.raises(ValueError, match="rows that sum to 1"):
        mixed_cross_entropy(logits, labels, mixing_weights=weights * 0.98)
    eps = torch.finfo(dtype).eps
    mixed_cross_entropy(logits, labels, mixing_weights=torch.tensor([[0.5, 0.5, eps, 0]], dtype=dtype))
    with pytest.raises(ValueError, match="rows that sum to 1"):  # in half precision its sum would be rounded to 1 + eps
        mixed_cross_entropy(logits, labels, mixing_weights=torch.tensor([[0.5, 0.5, 1.25 * eps, 0]], dtype=dtype))


def test_half_precision_logits_are_summed_in_single_where_labels_are_ignored(path):
    weights = make_weights().float()
    for criterion in (MultiMixLoss(), MultiMixLoss(reduction="none"), MultiMixLoss().eval()):
        half, single = leaf(randn(M, C).bfloat16()), leaf(randn(M, C).bfloat16().float())
        losses = [criterion(logits, LABELS, mixing_weights=weights) for logits in (half, single)]
        assert torch.equal(*losses)
        sum(losses).sum().backward()
        assert torch.equal(half.grad, single.grad.bfloat16())


HEADS = [
    nn.Linear(D, C),
    nn.Sequential(nn.Linear(D, 4), nn.ReLU(), nn.Linear(4, C)),
]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("head", HEADS, ids=["affine", "other"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("given", [False, True])
def test_half_precision_everywhere(dtype, head, autocast, given):
    head = head if autocast else copy.deepcopy(head).to(dtype)
    features = leaf((8 + randn(M, D, R)).to(dtype))
    weights = sample_mixing_weights(N, M, generator=generator(1), dtype=dtype) if given else None
    criterion = DenseMultiMixLoss(N, affine=isinstance(head, nn.Linear), generator=generator(1))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = criterion(features, head, LABELS, mask=MASK, mixing_weights=weights)
    loss.backward()
    assert loss.dtype == torch.float32
    exact = copy.deepcopy(head).double()
    if weights is None:
        weights = sample_mixing_weights(N, M, generator=generator(1))
    weights = weights.double() / weights.double().sum(1, keepdim=True)
    expected = DenseMultiMixLoss(N, affine=isinstance(head, nn.Linear))(
        features.detach().double(), exact, LABELS, mask=MASK, mixing_weights=weights
    )
    torch.testing.assert_close(loss.double(), expected, rtol=0.02, atol=0.02)
    assert bool(features.grad.isfinite().all())


def test_attention_in_half_precision_does_not_overflow():
    features = torch.full((4, 2048, 3), 8.0, dtype=torch.float16)
    head = nn.Linear(2048, C).half()
    assert bool(DenseMultiMixLoss(N)(features, head, torch.arange(4) % C).isfinite())


# Criteria


@REDUCTIONS
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
def test_criterion_has_the_options_of_the_function(path, reduction, options):
    dtype, _ = path
    options = in_dtype(options, dtype) | {"reduction": reduction, "ignore_index": 2}
    criterion = MultiMixLoss(N, 0.7, alpha_is_total=True, generator=generator(4), **options)
    logits, labels = randn(M, C).to(dtype), LABELS.abs() % C
    expected = mixed_cross_entropy(logits, labels, N, 0.7, alpha_is_total=True, generator=generator(4), **options)
    loss, weights = criterion(logits, labels, return_mixing_weights=True)
    torch.testing.assert_close(loss, expected)
    assert torch.equal(weights, sample_mixing_weights(N, M, 0.7 / M, generator=generator(4), dtype=dtype))
    torch.testing.assert_close(
        criterion(logits, labels, mixing_weights=weights[:3]).sum(),
        mixed_cross_entropy(logits, labels, mixing_weights=weights[:3], **options).sum(),
    )


@REDUCTIONS
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
def test_in_evaluation_mode_it_is_plain_cross_entropy(path, reduction, options):
    dtype, close = path
    criterion = MultiMixLoss(N, **in_dtype(options, dtype), reduction=reduction).eval()
    logits, exact = leaf(randn(M, C).to(dtype)), leaf(randn(M, C))
    loss, weights = criterion(logits, LABELS, return_mixing_weights=True)
    kept = LABELS >= 0
    targets = F.one_hot(LABELS[kept], C).double()
    expected = F.cross_entropy(exact[kept], targets, reduction=reduction, **options)
    if reduction == "none":
        expected = torch.zeros(M, dtype=torch.double).masked_scatter(kept, expected)
    assert_same(loss, expected, logits, exact, dtype, close)
    assert torch.equal(weights, torch.eye(M, dtype=dtype))
    assert float(criterion.eval()(randn(M, C), torch.full((M,), -100)).sum()) == 0
    single = F.cross_entropy(exact[:1], targets[:1], reduction=reduction, **options)
    torch.testing.assert_close(criterion(logits[:1], LABELS[:1]).double(), single, **close)


def test_class_weights_are_state_that_moves_with_the_criterion():
    criterion = MultiMixLoss(weight=WEIGHT).float()
    assert criterion.weight.dtype == torch.float32
    assert "weight" in criterion.state_dict()


def dense_expected(features, head, targets, mask, weights, **options):
    attention = mixtures.gap_attention(features.detach(), mask)
    return mixtures.dense_multimix(features, head, targets, attention, weights, mask, **options)


@pytest.mark.parametrize(("affine", "options"), [(None, {}), (False, {}), (False, OPTIONS[3])], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("layout", ["map", "tokens", "tokens map"])
def test_dense_criterion_with_layout_and_mask(layout, reduction, affine, options):
    head, weights = nn.Linear(D, C).double(), make_weights()
    features, exact = leaf(randn(M, D, R)), leaf(randn(M, D, R))
    mask = MASK & (LABELS >= 0)[:, None]
    full = F.one_hot(LABELS.clamp(min=0), C).double()[:, None].expand(M, R, C)
    given = features.masked_fill(~MASK[:, None], torch.nan)  # whatever padding holds
    given = {"map": given.unflatten(2, (2, 2)), "tokens": given.mT, "tokens map": given.mT.unflatten(1, (2, 2))}[layout]
    layout_option = {"layout": "channels_first" if layout == "map" else "channels_last"}
    criterion = DenseMultiMixLoss(reduction=reduction, affine=affine, **layout_option, **options)
    padding = MASK if layout == "tokens" else MASK.unflatten(1, (2, 2))
    loss = criterion(given, head, LABELS, mask=padding, mixing_weights=weights)
    attention = mixtures.gap_attention(exact.detach(), MASK)
    expected = mixtures.dense_multimix(exact, head, full, attention, weights, mask, reduction, **of_reference(options))
    assert_same(loss, expected, features, exact, torch.double, {"rtol": 1e-10, "atol": 1e-12})


def test_class_weights_are_checked_against_what_a_head_gives():
    criterion = DenseMultiMixLoss(N, affine=False, weight=torch.ones(C + 1).double())
    with pytest.raises(ValueError, match=r"weight must have shape \(3,\), got \(4,\)"):
        criterion(randn(M, D, R), nn.Linear(D, C).double(), LABELS)


def test_layout_is_checked_against_the_head():
    linear = nn.Linear(D, C).double()
    for head in (nn.Sequential(nn.Dropout(), linear), torch.compile(linear, backend="eager")):
        with pytest.raises(ValueError, match=r"channels_first features must have 5 channels .* \(6, 4, 5\)"):
            DenseMultiMixLoss(N)(randn(M, R, D), head, LABELS)
    with pytest.raises(ValueError, match=r"shape \(m, r, d\) or \(m, h, w, d\), no size 0, got \(6, 5\)"):
        DenseMultiMixLoss(N, layout="channels_last")(randn(M, D), linear, LABELS)
    with pytest.raises(ValueError, match="layout must be"):
        DenseMultiMixLoss(layout="nchw")
    DenseMultiMixLoss(N)(randn(M, 2, R), nn.Sequential(nn.Linear(2, D), nn.Linear(D, C)).double(), LABELS)


def test_a_lazy_head_learns_its_size_from_the_features():
    features, weights = randn(M, D, R), make_weights()
    lazy = nn.LazyLinear(C).double()
    loss = DenseMultiMixLoss()(features, lazy, LABELS, mixing_weights=weights)
    head = nn.Linear(D, C).double()
    head.load_state_dict(lazy.state_dict())
    assert torch.equal(loss, DenseMultiMixLoss()(features, head, LABELS, mixing_weights=weights))


def test_attention_of_a_criterion():
    head, weights, features = nn.Linear(D, C).double(), make_weights(), randn(M, D, R)
    labels = LABELS.abs() % C
    full = F.one_hot(labels, C).double()[:, None].expand(M, R, C)

    def value(attention, query=None, targets=labels, **options):
        criterion = DenseMultiMixLoss(attention=attention, **options)
        return criterion(features, head, targets, query=query, mixing_weights=weights)

    def expected(attention):
        return mixtures.dense_multimix(features, head, full, attention, weights)

    def normalised(scores):
        scores = scores.clamp(min=0)
        return torch.stack(
            [s / s.sum() if s.sum() > 0 else torch.full((R,), 1 / R, dtype=torch.double) for s in scores]
        )

    cam = torch.stack([z.mT @ head.weight[y] for z, y in zip(features, labels)])
    torch.testing.assert_close(value("cam"), expected(normalised(cam)))
    torch.testing.assert_close(value("cam", targets=F.one_hot(labels, C)), expected(normalised(cam)))
    of_ignored = [value("cam", targets=labels.masked_fill(LABELS < 0, x), ignore_index=x) for x in (-100, 255)]
    assert torch.equal(*of_ignored)
    class_token = randn(M, D, seed=8)
    scores = torch.stack([z.mT @ u for z, u in zip(features, class_token)])
    given = {"query": class_token, "mask": MASK, "mixing_weights": weights}
    masked = DenseMultiMixLoss(attention=softmax_attention_map)(features, head, labels, **given)
    of_real = scores.masked_fill(~MASK, -torch.inf).softmax(1).nan_to_num(0)
    torch.testing.assert_close(masked, mixtures.dense_multimix(features, head, full, of_real, weights, MASK))
    torch.testing.assert_close(value("gap", class_token), expected(normalised(scores)))
    torch.testing.assert_close(value(softmax_attention_map, class_token), expected(scores.softmax(1)))
    uniform = value(lambda features, query, mask: torch.ones(M, R, dtype=torch.double))
    torch.testing.assert_close(uniform, expected(torch.ones(M, R, dtype=torch.double)))
    heads = lambda z: z[..., :C], nn.Sequential(nn.Linear(D, 4), nn.Linear(4, C)), nn.Sequential(head, nn.ReLU())
    for other in heads:
        with pytest.raises(ValueError, match=f"needs a head with one linear layer, got {type(other).__name__}"):
            DenseMultiMixLoss(attention="cam", affine=True)(features.float(), other, labels)
    for shape in ((M, R), (M, R, C)):
        with pytest.raises(ValueError, match=f"needs targets per example, got shape {re.escape(str(shape))}"):
            value("cam", targets=torch.ones(shape, dtype=torch.long))


def test_attention_lets_gradients_through_if_told_to():
    head, weights, labels = nn.Linear(D, C).double(), make_weights(), LABELS.abs() % C
    full = F.one_hot(labels, C).double()[:, None].expand(M, R, C)
    features, exact = leaf(randn(M, D, R)), leaf(randn(M, D, R))
    DenseMultiMixLoss(detach_attention=False)(features, head, labels, mixing_weights=weights).backward()
    mixtures.dense_multimix(exact, head, full, mixtures.gap_attention(exact), weights).backward()
    torch.testing.assert_close(features.grad, exact.grad, rtol=1e-9, atol=1e-12)


def test_dense_in_evaluation_mode():
    head, features = nn.Linear(D, C).double(), randn(M, D, R)
    criterion = DenseMultiMixLoss(N).eval()
    pooled = torch.stack([z[:, keep].mean(1) for z, keep in zip(features, MASK) if keep.any()])
    labels = LABELS.abs() % C
    expected = F.cross_entropy(head(pooled), labels[MASK.any(1)])
    torch.testing.assert_close(criterion(features, head, labels, mask=MASK), expected)
    torch.testing.assert_close(criterion(features, head, labels), F.cross_entropy(head(features.mean(2)), labels))
    per_position = torch.randint(C, (M, R), generator=generator(5))
    losses = F.cross_entropy(head(features.mT).mT, per_position, reduction="none")
    expected = torch.stack([x[keep].mean() for x, keep in zip(losses, MASK) if keep.any()]).mean()
    for targets in (per_position, F.one_hot(per_position, C)):
        torch.testing.assert_close(criterion(features, head, targets, mask=MASK), expected)


class Cosine(nn.Linear):
    """A subclass with a forward of its own."""

    def forward(self, z):
        return F.linear(F.normalize(z, dim=-1), self.weight)


@pytest.mark.parametrize(
    ("head", "affine"),
    [
        (nn.Linear(D, C), True),
        (parametrizations.weight_norm(nn.Linear(D, C)), True),
        (parametrizations.spectral_norm(nn.Linear(D, C)), True),
        (nn.Sequential(nn.Dropout(), nn.Linear(D, C)).eval(), True),
        (nn.Sequential(nn.Dropout(), nn.Linear(D, C)), True),
        (nn.Sequential(nn.Dropout(0), nn.Identity(), nn.Linear(D, 4), nn.Linear(4, C)), True),
        (nn.Sequential(nn.Linear(D, C), nn.ReLU()), False),
        (Cosine(D, C), False),
        (torch.compile(nn.Linear(D, C), backend="eager"), True),
        (torch.compile(Cosine(D, C), backend="eager"), False),
        (lambda z: z, False),
    ],
)
def test_affine_heads_are_known(head, affine):
    assert is_affine(head) == affine


def test_the_slow_path_warns_once_and_not_if_told():
    head, features, labels = nn.Sequential(nn.Linear(D, C), nn.Tanh()).double(), randn(M, D, R), LABELS
    criterion = DenseMultiMixLoss(N)
    with pytest.warns(UserWarning, match="container.Sequential, which is not known to be affine"):
        criterion(features, head, labels)
    criterion(features, head, labels)
    DenseMultiMixLoss(N, affine=False)(features, head, labels)
    seen = []
    told = DenseMultiMixLoss(N, affine=True)
    told(features, lambda z: seen.append(z.shape) or z[..., :C], labels)
    known = nn.Linear(D, C).double()
    known.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    DenseMultiMixLoss(N)(features, known, labels)
    assert seen == 2 * [(M, R, D)]


def test_the_warning_of_the_slow_path_names_the_line_that_calls_the_criterion(monkeypatch):
    for name in ("forward", "_is_affine"):  # the checks of types that tests put around them count as callers
        monkeypatch.setattr(DenseMultiMixLoss, name, inspect.unwrap(getattr(DenseMultiMixLoss, name)))
    with pytest.warns(UserWarning, match="not known to be affine") as warned:
        DenseMultiMixLoss(N)(randn(M, D, R), lambda z: z[..., :C], LABELS)
    assert [warning.filename for warning in warned] == [__file__]


# Binary cross-entropy


@REDUCTIONS
@pytest.mark.parametrize("pos_weight", [None, torch.tensor([1.0, 2.0, 0.5], dtype=torch.double)])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_binary_cross_entropy(reduction, pos_weight, weight):
    logits, exact, tags = leaf(randn(M, C)), leaf(randn(M, C)), randn(M, C, seed=3) > 0.3
    ours = mixed_binary_cross_entropy(
        logits, tags, weight=weight, pos_weight=pos_weight, reduction=reduction, mixing_weights=make_weights()
    )
    losses = []
    for row in make_weights():
        x, y = mixtures.mixture(row, exact), mixtures.mixture(row, tags.double())
        yes, no = -y * torch.log(torch.sigmoid(x)), -(1 - y) * torch.log(torch.sigmoid(-x))
        terms = (1 if pos_weight is None else pos_weight) * yes + no
        losses.append(((1 if weight is None else weight) * terms).mean())
    expected = mixtures.reduced(losses, reduction)
    assert_same(ours, expected, logits, exact, torch.double, {"rtol": 1e-10, "atol": 1e-12})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_binary_cross_entropy_in_half_precision(dtype):
    logits, tags = leaf((3 * randn(M, C)).to(dtype)), randn(M, C, seed=3) > 0.3
    criterion = MultiMixBCELoss(N, generator=generator(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = criterion(logits, tags.to(dtype))
    loss.backward()
    expected = MultiMixBCELoss(N, generator=generator(2))(logits.detach().float(), tags)
    assert torch.equal(loss, expected)
    given = sample_mixing_weights(N, M, generator=generator(2), dtype=dtype)
    assert bool(criterion(logits, tags, mixing_weights=given).isfinite())


def test_binary_criterion():
    logits, tags = randn(M, 1), torch.arange(M) % 2
    criterion = MultiMixBCELoss(N, generator=generator(2))
    loss, weights = criterion(logits, tags, return_mixing_weights=True)
    torch.testing.assert_close(mixed_binary_cross_entropy(logits, tags[:, None], mixing_weights=weights), loss)
    plain = F.binary_cross_entropy_with_logits(logits[:, 0], tags.double())
    torch.testing.assert_close(criterion.eval()(logits, tags), plain)
    with pytest.raises(ValueError, match=r"targets must have shape \(6, 3\), got \(6,\)"):
        criterion(randn(M, C), tags)
    with pytest.raises(ValueError, match="MultiMixBCELoss"):
        mixed_cross_entropy(logits, tags, N)


# What others report of losses


def test_a_default_device_or_type_does_not_matter(path):
    dtype, _ = path
    logits, labels, features = randn(M, C).to(dtype), LABELS, randn(M, D, R).to(dtype)
    head, tags = nn.Linear(D, C).to(dtype), LABELS.abs() % 2

    def values():
        source = generator(3)
        yield mixed_cross_entropy(logits, labels, N, generator=source, label_smoothing=0.1)
        yield MultiMixLoss(N, generator=source, reduction="none")(logits, labels)
        yield MultiMixLoss(N).eval()(logits, labels)
        yield DenseMultiMixLoss(N, generator=source)(features, head, labels, mask=MASK)
        yield DenseMultiMixLoss(N, generator=source, affine=False)(features, head, labels)
        yield MultiMixBCELoss(N, generator=source)(logits[:, :1], tags)

    expected = list(values())
    torch.set_default_device("meta")
    try:
        ours = list(values())
    finally:
        torch.set_default_device(None)
    torch.set_default_dtype(torch.double)
    try:
        ours += values()
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(ours, 2 * expected, strict=True):
        assert torch.equal(a, b)


def test_a_generator_alone_breaks_a_graph_and_only_where_one_is_made(monkeypatch):
    breaks = []
    monkeypatch.setattr(torch.compiler, "disable", lambda function: breaks.append(function) or function)
    for compiling, source, expected in ((False, generator(), 0), (True, None, 0), (True, generator(), 1)):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)  # noqa: B023
        assert bool(mixed_cross_entropy(randn(M, C), LABELS, N, generator=source).isfinite())
        assert len(breaks) == expected


def test_numbers_of_numpy_and_torch_are_numbers():
    loss = inspect.unwrap(mixed_cross_entropy)  # without the checks of types that tests put around it
    logits, labels, expected = randn(M, C), LABELS.abs() % C, {"label_smoothing": 0.25, "generator": generator(1)}
    numbers = {"label_smoothing": torch.tensor(0.25), "generator": generator(1)}
    value = loss(logits, labels, np.int64(N), np.float32(0.5), **numbers)
    assert torch.equal(value, mixed_cross_entropy(logits, labels, N, 0.5, **expected))
    assert loss(logits, labels, torch.tensor(N), torch.tensor(0.5), reduction="none").shape == (N,)
    with pytest.raises(TypeError, match=r"num_mixtures must be an integer >= 1, got 2\.0"):
        loss(logits, labels, 2.0)


def test_functional_gradients(path):
    dtype, _ = path
    logits, weights = randn(M, C).to(dtype), make_weights().to(dtype)
    for inputs in ({"mixing_weights": weights}, {"num_mixtures": N}):
        source = generator(2)

        def loss(logits):
            return mixed_cross_entropy(logits, LABELS, **inputs, generator=source)  # noqa: B023

        expected = leaf(logits)
        mixed_cross_entropy(expected, LABELS, **inputs, generator=generator(2)).backward()
        assert torch.equal(torch.func.grad(loss)(logits), expected.grad)
    gradient = torch.func.grad(lambda w: mixed_cross_entropy(logits, LABELS, mixing_weights=w))(weights)
    expected = leaf(weights)
    mixed_cross_entropy(logits, LABELS, mixing_weights=expected).backward()
    assert torch.equal(gradient, expected.grad)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("targets", [LABELS, randn(M, C, seed=3).softmax(1)], ids=["labels", "soft"])
def test_second_derivatives_are_refused(path, targets, squared):
    """The gradient of a network's input depends on its weights by way of the loss's own curvature."""
    dtype, _ = path
    network = nn.Sequential(nn.Linear(D, 4), nn.Tanh(), nn.Linear(4, C)).to(dtype)
    x = leaf(randn(M, D).to(dtype))
    loss = mixed_cross_entropy(network(x), targets, N)
    (gradient,) = torch.autograd.grad(loss**2 if squared else loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match=r'cannot be differentiated twice.* reduction="none" can'):
        gradient.square().sum().backward()


def test_second_derivatives_of_attention_and_mixing_weights_are_refused():
    logits, attention, weights = leaf(randn(M, R, C)), leaf(randn(M, R).exp()), leaf(make_weights())
    loss = dense_mixed_cross_entropy(logits, LABELS, attention, mixing_weights=weights)
    for gradient in torch.autograd.grad(loss, (logits, attention, weights), create_graph=True):
        for x in (logits, attention, weights):
            with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
                torch.autograd.grad(gradient.sum(), x, retain_graph=True)


def test_without_reduction_second_derivatives_are_those_of_the_literal_loss():
    logits, weights = leaf(randn(M, C)), make_weights()
    one_hot = F.one_hot(LABELS.clamp(min=0), C).double()
    participants = weights * (LABELS >= 0)
    kept = participants[participants.sum(1) > 0]
    kept = kept / kept.sum(1, keepdim=True)

    def literal(logits):
        return -((kept @ one_hot) * (kept @ logits).log_softmax(1)).sum(1).sum()

    def loss(logits):
        return mixed_cross_entropy(logits, LABELS, mixing_weights=weights, reduction="none").sum()

    hessians = [torch.autograd.functional.hessian(function, logits) for function in (loss, literal)]
    assert hessians[1].abs().max() > 0.01
    torch.testing.assert_close(*hessians)
