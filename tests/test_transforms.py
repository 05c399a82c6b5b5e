"""Batch transforms against torchvision's and timm's, with the draws of both replaced by the same ones."""

import copy
import math

import numpy as np
import pytest
import timm.data.mixup
import torch
from scipy import stats
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from mmlib import sample_mixing_weights, transforms
from mmlib.transforms import CutMix, Mixup, ZetaMixup, cutmix_box, draw_pairs, find_labels, mix_pairs, zeta_weights
from tests.reference import pairs

M, C = 6, 4
LABELS = torch.tensor([0, 3, 2, 2, 1, 0])
LAMBDAS = [0.0, 0.03, 0.3, 0.5, 0.77, 1.0]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(M, 3, *(size or (8, 8)), generator=seeded(1)).to(dtype)


def soft_labels() -> Tensor:
    return torch.rand(M, C, generator=seeded(2)).softmax(dim=1)


@pytest.fixture
def same_draws(monkeypatch):
    """Gives all three libraries one λ and one centre; returns a function that also sets our partners."""

    def fix(lam: float, partners: Tensor, centre: tuple[int, int] = (0, 0)) -> None:
        monkeypatch.setattr(transforms, "draw_pairs", lambda *_, **__: (partners, lam))
        monkeypatch.setattr(torch.distributions.Beta, "sample", lambda *_: torch.tensor([lam], dtype=torch.float64))
        monkeypatch.setattr(np.random, "beta", lambda *_, **__: lam)
        drawn = {"ours": iter(centre), "torchvision": iter(reversed(centre)), "timm": iter(centre)}

        def randint(_: int, size: tuple[int, ...] = (), **options: object) -> Tensor:
            return torch.full(size, next(drawn["torchvision" if size else "ours"]))

        monkeypatch.setattr(torch, "randint", randint)
        monkeypatch.setattr(np.random, "randint", lambda *_, **__: next(drawn["timm"]))

    return fix


ROLLED, FLIPPED = torch.arange(M).roll(1), torch.arange(M).flip(0)


@pytest.mark.parametrize("lam", LAMBDAS)
@pytest.mark.parametrize("labels", [LABELS, soft_labels()], ids=["indices", "soft"])
def test_mixup_is_torchvisions(same_draws, lam, labels):
    same_draws(lam, ROLLED)
    x = images()
    expected_x, expected_y = v2.MixUp(num_classes=C)(x.clone(), labels)
    mixed, targets = Mixup(num_classes=C)(x, labels)
    torch.testing.assert_close(mixed, expected_x, rtol=0, atol=2e-7)
    torch.testing.assert_close(targets, expected_y, rtol=0, atol=2e-7)


@pytest.mark.parametrize("lam", LAMBDAS)
def test_mixup_is_timms(same_draws, lam):
    same_draws(lam, FLIPPED)
    x = images()
    expected_x, expected_y = timm.data.mixup.Mixup(num_classes=C, label_smoothing=0)(x.clone(), LABELS)
    mixed, targets = Mixup(num_classes=C)(x, LABELS)
    torch.testing.assert_close(mixed, expected_x, rtol=0, atol=2e-7)
    torch.testing.assert_close(targets, expected_y, rtol=0, atol=2e-7)


@pytest.mark.parametrize("size", [(8, 8), (7, 12), (32, 20)])
@pytest.mark.parametrize("lam", LAMBDAS)
def test_cutmix_is_torchvisions_to_the_bit(same_draws, lam, size):
    x = images(*size)
    for centre in [(0, 0), (3, 4), (6, 7), (size[0] - 1, size[1] - 1)]:
        same_draws(lam, ROLLED, centre)
        expected_x, expected_y = v2.CutMix(num_classes=C)(x, LABELS)
        mixed, targets = CutMix(num_classes=C)(x, LABELS)
        assert torch.equal(mixed, expected_x)
        torch.testing.assert_close(targets, expected_y, rtol=0, atol=2e-7)


@pytest.mark.parametrize("lam", [0.0, 0.1, 0.3, 0.5, 0.75, 0.99])
def test_cutmix_is_timms_where_sides_are_even(same_draws, lam):
    x, equal = images(8, 8), int(8 * math.sqrt(1 - lam)) % 2 == 0
    for centre in [(0, 0), (3, 4)]:  # an odd side reaches further down and to the right
        same_draws(lam, FLIPPED, centre)
        expected_x, expected_y = timm.data.mixup.Mixup(0, 1, num_classes=C, label_smoothing=0)(x.clone(), LABELS)
        mixed, targets = CutMix(num_classes=C)(x, LABELS)
        assert torch.equal(mixed, expected_x) == equal
        assert torch.allclose(targets, expected_y, rtol=0, atol=2e-7) == equal


@pytest.mark.parametrize("size", [(8, 8), (7, 12), (32, 20)])
@pytest.mark.parametrize("lam", LAMBDAS)
def test_a_box_has_the_pixels_that_the_formula_pastes(size, lam):
    nothing, everything = torch.zeros(1, *size), torch.ones(1, *size)
    for centre in [(0, 0), (3, 4), (6, 7), (size[0] - 1, size[1] - 1)]:
        rows, columns = cutmix_box(size, lam, centre)
        mask = torch.zeros(1, *size)
        mask[:, rows, columns] = 1
        pasted, kept = pairs.cut(nothing, everything, lam, centre)
        assert torch.equal(mask, pasted)
        assert mask.mean().item() == pytest.approx(1 - kept, abs=1e-6)


def test_rounding_of_cutmix_on_small_images():
    """The numbers in the docstring of `cutmix_box`: over λ and centre, of a box that is clipped but not rounded."""
    pasted, wanted, nothing, timms = 0.0, 0.0, 0.0, 0.0
    lams = [(k + 0.5) / 160 for k in range(160)]
    for lam in lams:
        half, whole = 4 * math.sqrt(1 - lam), int(8 * math.sqrt(1 - lam))
        rows = [cutmix_box((8, 8), lam, (centre, 0))[0] for centre in range(8)]
        pasted += sum(row.stop - row.start for row in rows) ** 2
        nothing += sum(row.stop == row.start for row in rows) / 8
        wanted += sum(min(8.0, at + half) - max(0.0, at - half) for at in range(8)) ** 2
        timms += sum(min(8, at + (whole + 1) // 2) - max(0, at - whole // 2) for at in range(8)) ** 2
    assert 1 - pasted / wanted == pytest.approx(0.27, abs=0.005)
    assert 1 - timms / wanted == pytest.approx(0.12, abs=0.005)
    assert nothing / len(lams) == pytest.approx(0.0625, abs=0.002)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_mixes_with_the_labels_lambda(monkeypatch, dtype):
    """In bfloat16 λ = 0.499 is 0.5: images would be mixed with another λ than labels."""
    lam = 0.499
    monkeypatch.setattr(transforms, "draw_pairs", lambda *_, **__: (ROLLED, lam))
    x = images(dtype=dtype) * 100
    mixed, targets = Mixup(num_classes=C)(x, LABELS)
    expected = (lam * x.double() + (1 - lam) * x.double().roll(1, 0)).float().to(dtype)
    assert mixed.dtype == dtype
    assert targets.dtype == torch.float32
    assert torch.equal(mixed, expected)
    assert targets[1].tolist() == pytest.approx([1 - lam, 0, 0, lam], abs=1e-7)
    rounded, _ = v2.MixUp(num_classes=C)(x, LABELS)
    assert rounded.dtype == dtype


def test_draws_are_the_generators_and_nobody_elses():
    state = torch.get_rng_state()
    x = images()
    for kind in (Mixup, CutMix, ZetaMixup):
        first, again = (kind(num_classes=C, generator=seeded(3))(x, LABELS) for _ in range(2))
        other = kind(num_classes=C, generator=seeded(4))(x, LABELS)
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])
        assert not torch.equal(first[0], other[0])
    assert torch.equal(torch.get_rng_state(), state)
    for kind in (Mixup, CutMix, ZetaMixup):
        torch.manual_seed(0)
        first = kind(num_classes=C)(x, LABELS)[0]
        torch.manual_seed(0)
        assert torch.equal(first, kind(num_classes=C)(x, LABELS)[0])


@pytest.mark.parametrize("alpha", [0.2, 1.0, 2.0])
def test_lambda_is_beta(alpha):
    generator = seeded()
    lams = [draw_pairs(1, alpha, generator=generator)[1] for _ in range(1500)]
    assert stats.kstest(lams, stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    # The test is sharp enough to tell another concentration.
    assert stats.kstest(lams, stats.beta(1.5 * alpha, 1.5 * alpha).cdf).pvalue < 1e-3


def test_partners_are_uniform_permutations():
    generator = seeded()
    drawn = torch.stack([draw_pairs(3, generator=generator)[0] for _ in range(1200)])
    assert torch.equal(drawn.sort(dim=1).values, torch.arange(3).expand(1200, 3))
    orders = (drawn @ torch.tensor([9, 3, 1])).unique(return_counts=True)[1]
    assert len(orders) == 6
    assert orders.min() > 160


def test_pairs_with_a_lambda_each():
    values, lam = images(), torch.tensor([0.0, 1.0, 0.25, 0.5, 0.75, 0.1], dtype=torch.float64)
    mixed = mix_pairs(values, ROLLED, lam)
    for i, weight in enumerate(lam.tolist()):
        torch.testing.assert_close(mixed[i], weight * values[i] + (1 - weight) * values[i - 1])
    assert mixed.dtype == torch.float32


def test_gradients_reach_both_of_a_pair():
    values = images(dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: mix_pairs(v, ROLLED, 0.3), values)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zeta_mixup_by_loops(gamma, dtype):
    x = images(dtype=dtype)
    mixed, targets = ZetaMixup(gamma=gamma, num_classes=C, generator=seeded(5))(x, LABELS)
    weights = zeta_weights(M, gamma, generator=seeded(5))
    by_rank = [rank**-gamma / sum(r**-gamma for r in range(1, M + 1)) for rank in range(1, M + 1)]
    for k in range(M):
        assert weights[k].sort(descending=True).values.tolist() == pytest.approx(by_rank, rel=1e-5)
        expected = sum(weights[k, i].double() * x[i].double() for i in range(M))
        torch.testing.assert_close(
            mixed[k].double(), expected, rtol=1e-5 if dtype == torch.float32 else 4e-3, atol=1e-6
        )
        shares = [sum(weights[k, i].item() for i in range(M) if LABELS[i] == label) for label in range(C)]
        assert targets[k].tolist() == pytest.approx(shares, rel=1e-5)
        assert weights[k, k] == weights[k].max()


def test_published_constants_are_the_defaults():
    assert torch.equal(zeta_weights(M, generator=seeded()), zeta_weights(M, 2.8, generator=seeded()))
    assert ZetaMixup().gamma == 2.8
    assert Mixup().alpha == CutMix().alpha == 1.0
    assert draw_pairs(M, generator=seeded())[1] == draw_pairs(M, 1.0, generator=seeded())[1]


def test_double_precision_is_kept():
    x, y = images(dtype=torch.float64), soft_labels().double()
    lam = draw_pairs(M, generator=seeded())[1]
    assert lam == sample_mixing_weights(1, 2, 1.0, generator=seeded(), dtype=torch.float64)[0, 0].item()
    assert torch.tensor(lam).item() != lam  # more digits than single precision has
    thirds = mix_pairs(torch.tensor([0.0, 3.0], dtype=torch.float64), torch.tensor([1, 0]), 1 / 3)
    torch.testing.assert_close(thirds, torch.tensor([2.0, 1.0], dtype=torch.float64), rtol=1e-15, atol=0)
    weights = zeta_weights(M, 2.8, generator=seeded(5), dtype=torch.float64)
    by_rank = torch.arange(1, M + 1, dtype=torch.float64) ** -2.8
    torch.testing.assert_close(weights.max(dim=1).values, (1 / by_rank.sum()).expand(M), rtol=1e-15, atol=0)
    for mixed, expected in zip(ZetaMixup(generator=seeded(5))(x, y), (x, y)):
        torch.testing.assert_close(mixed, torch.einsum("km,m...->k...", weights, expected), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("kind", [Mixup, CutMix, ZetaMixup])
def test_grey_images_need_no_axis_of_channels(kind):
    x = images()[:, 0]
    with_channel = kind(num_classes=C, generator=seeded(6))(x.unsqueeze(1), LABELS)
    assert torch.equal(kind(num_classes=C, generator=seeded(6))(x, LABELS)[0], with_channel[0].squeeze(1))


@pytest.mark.parametrize("kind", [Mixup, CutMix, ZetaMixup])
def test_samples_of_every_form(kind):
    x, index = images(), torch.arange(M)

    def transform(*sample: object, **options: object) -> object:
        return kind(num_classes=C, generator=seeded(6), **options)(*sample)

    for sample in ((x, LABELS), [x, LABELS, index], (x, {"Labels": LABELS, "a_label": index}), {"my_label": LABELS}):
        assert find_labels(sample) is LABELS
    mixed, targets = transform(x, LABELS)
    for sample in ((x, LABELS), [x, LABELS]):
        assert type(transform(sample)) is type(sample)
        assert torch.equal(transform(sample)[0], mixed)
        assert torch.equal(transform(sample)[1], targets)
    pair = transform(x, {"boxes": None, "Labels": LABELS, "other_label": index})
    assert torch.equal(pair[0], mixed)
    assert torch.equal(pair[1]["Labels"], targets)
    assert pair[1]["other_label"] is index
    pair = transform(x, {"other_label": index, "Labels": LABELS})
    assert torch.equal(pair[1]["Labels"], targets)
    mapping = transform({"my_label": LABELS, "index": index, "image": x, "name": "digits"})
    assert torch.equal(mapping["image"], mixed)
    assert torch.equal(mapping["my_label"], targets)
    assert mapping["index"] is index
    assert mapping["name"] == "digits"
    nested = transform({"input": {"image": x}, "y": LABELS}, labels_getter=lambda sample: sample["y"])
    assert torch.equal(nested["input"]["image"], mixed)
    assert torch.equal(nested["y"], targets)
    wrapped = transform(tv_tensors.Image(x), LABELS)[0]
    assert isinstance(wrapped, tv_tensors.Image)
    assert torch.equal(wrapped.as_subclass(Tensor), mixed)


@pytest.mark.parametrize("labels", [LABELS.int(), LABELS.to(torch.uint8), torch.eye(C).bool()[LABELS]])
def test_labels_of_every_type(labels):
    targets = Mixup(num_classes=C, generator=seeded(7))(images(), labels)[1]
    assert torch.equal(targets, Mixup(num_classes=C, generator=seeded(7))(images(), LABELS)[1])


def test_cutmix_pastes_bytes():
    x = (images() * 255).to(torch.uint8)
    mixed, _ = CutMix(num_classes=C, generator=seeded(8))(x, LABELS)
    assert mixed.dtype == torch.uint8
    assert 0 < (mixed != x).double().mean() < 1


def test_transforms_survive_copies_and_workers():
    transform = CutMix(num_classes=C, generator=seeded(9))
    assert torch.equal(copy.deepcopy(transform)(images(), LABELS)[0], transform(images(), LABELS)[0])


WRONG = [
    (lambda: Mixup()(images(), LABELS), ValueError, "num_classes must be given"),
    (lambda: Mixup(num_classes=C)(images(), soft_labels()[:, :2]), ValueError, r"labels must be .*\(m, 4\), got"),
    (lambda: Mixup(num_classes=C)(images(), LABELS[:2]), ValueError, "equal length"),
    (lambda: Mixup(num_classes=C)(images()), TypeError, "labels must be"),
    (lambda: Mixup(num_classes=C)({"image": images()}), TypeError, "labels must be"),
    (lambda: Mixup(num_classes=C)([images()]), TypeError, "labels must be"),
    (
        lambda: Mixup(num_classes=C, labels_getter=lambda _: LABELS.clone())(images(), LABELS),
        TypeError,
        "^labels_getter must return a tensor that the sample holds, got another object$",
    ),
    (lambda: Mixup(num_classes=C, labels_getter="second"), TypeError, "labels_getter must be"),
    *(
        (
            lambda kind=kind: kind(num_classes=C)((images() * 255).byte(), LABELS),
            TypeError,
            "^images must be a floating-point tensor, got torch.uint8",
        )
        for kind in (Mixup, ZetaMixup)
    ),
    (lambda: Mixup(num_classes=C)(images()[:, 0, 0], LABELS), ValueError, r"must be a batch .* got shapes \(6, 8\)"),
    (lambda: Mixup(num_classes=0), ValueError, "num_classes must be an integer >= 1, got 0"),
    (lambda: Mixup(alpha=0.0), ValueError, "alpha"),
    (lambda: ZetaMixup(gamma=-1.0), ValueError, "gamma"),
    *(
        (
            lambda kind=kind, label=label: kind(num_classes=C)(images(), LABELS.clone().fill_(label)),
            ValueError,
            f"^labels must be from 0 to 3 for 4 classes, got {label}$",
        )
        for kind in (Mixup, CutMix, ZetaMixup)
        for label in (C, -1)
    ),
    *(
        (lambda draw=draw, m=m: draw(m), ValueError, f"^num_examples must be an integer >= 1, got {m}$")
        for draw in (draw_pairs, zeta_weights)
        for m in (0, -2)
    ),
    *(
        (
            lambda kind=kind: kind(num_classes=C)(images()[:0], LABELS[:0]),
            ValueError,
            "^num_examples must be an integer >= 1, got 0$",
        )
        for kind in (Mixup, CutMix, ZetaMixup)
    ),
    (lambda: draw_pairs(3, (1, 2)), TypeError, r"^alpha must be a positive number, got \(1, 2\)$"),
    *(
        (
            lambda gamma=gamma: zeta_weights(3, gamma),
            ValueError,
            f"^gamma must be a finite number >= 0, got {gamma}$",
        )
        for gamma in (math.nan, -1.0, math.inf)
    ),
    *(
        (lambda call=call, lam=lam: call(lam), ValueError, f"^lam must be a number from 0 to 1, got {lam}$")
        for call in (
            lambda lam: cutmix_box((8, 8), lam, (0, 0)),
            lambda lam: mix_pairs(images(), ROLLED, lam),
            lambda lam: mix_pairs(images(), ROLLED, torch.full((M,), lam)),
        )
        for lam in (2.0, -0.5, math.nan)
    ),
    (lambda: mix_pairs(LABELS, ROLLED, 0.5), TypeError, "^values must be a floating-point tensor, got torch.int64$"),
    (lambda: mix_pairs(images(), ROLLED[:2], 0.5), ValueError, r"^partners must have shape \(6,\), got \(2,\)$"),
    (lambda: mix_pairs(images(), ROLLED > 2, 0.5), TypeError, "^partners must be an integer tensor, got torch.bool$"),
    (
        lambda: mix_pairs(images(), ROLLED, torch.ones(2)),
        ValueError,
        r"^lam must have shape \(6,\), got \(2,\)$",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_errors_name_what_is_wrong(call, error, message, unchecked):
    with pytest.raises(error, match=message):
        call()


def test_transforms_say_what_they_are():
    assert repr(Mixup(num_classes=10, alpha=0.5)) == "Mixup(alpha=0.5, num_classes=10)"
    assert repr(CutMix(num_classes=10, alpha=0.5)) == "CutMix(alpha=0.5, num_classes=10)"
    assert repr(ZetaMixup(num_classes=10, gamma=3.0)) == "ZetaMixup(gamma=3.0, num_classes=10)"
