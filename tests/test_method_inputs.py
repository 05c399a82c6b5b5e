"""Every method with every type of labels and precision, and what a step asks of the device."""

import copy
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmlib.experiments.methods import METHODS, alignmixup, check_options, comixup
from mmlib.experiments.methods._saliency import saliency_map
from mmlib.experiments.methods.base import option_names
from mmlib.experiments.methods.distillation import Teacher
from mmlib.experiments.models import MODELS, Classifier
from tests.helpers import C, M, perturb

NEVER_WAITING = ["alignmixup", "cutmix", "dense_multimix", "erm", "mixup", "multimix", "zeta_mixup"]


def options(name, **given):
    return {key: value for key, value in given.items() if key in option_names(METHODS[name])}


@pytest.mark.parametrize("name", sorted(METHODS))
def test_labels_of_every_integer_type(classifier, batch, name):
    images, labels = batch
    losses = []
    for dtype in (torch.int64, torch.int32, torch.uint8):
        method = METHODS[name](copy.deepcopy(classifier), seed=2, **options(name, probability=1, num_mixtures=20))
        losses.append(method(images, labels.to(dtype)).item())
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_another_default_device_breaks_no_method(classifier, batch, name):
    method, other = (METHODS[name](copy.deepcopy(classifier), seed=2) for _ in range(2))
    expected = [method(*batch).item() for _ in range(3)]
    torch.set_default_device("meta")
    try:
        assert [other(*batch).item() for _ in range(3)] == expected
        other.on_step_end()
        other.load_state_dict(other.state_dict())
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_classifiers_of_half_precision(classifier, batch, name, dtype):
    given = options(name, probability=1, num_mixtures=500, xi=100.0)
    images, labels = batch[0].to(dtype), batch[1]
    method = METHODS[name](classifier.to(dtype), seed=2, **given)
    loss = method(images, labels)
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in classifier.parameters())
    exact = METHODS[name](copy.deepcopy(classifier).double(), seed=2, **given)(images.double(), labels)
    # Random starts and mixing weights of Co-Mixup and MultiMix differ with the type, the others' do not.
    torch.testing.assert_close(loss.double(), exact, rtol=0, atol=0.15 if name == "comixup" else 0.05)


@pytest.mark.parametrize("name", ["alignmixup", "dense_multimix", "manifold_mixup", "comixup"])
def test_vit_under_autocast(name):
    torch.manual_seed(0)
    encoder, d = MODELS["vit-tiny"](1, 8)
    classifier = Classifier(encoder, d, classes=C, mean=(0.4,), std=(0.2,))
    images, labels = torch.rand(M, 1, 8, 8), torch.arange(M) % C
    single, mixed = (METHODS[name](classifier, seed=2, **options(name, probability=1)) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        loss = mixed(images, labels)
    torch.testing.assert_close(loss, single(images, labels), rtol=0, atol=0.02)


def test_comixup_and_puzzlemix_compute_in_single_precision_under_autocast(classifier):
    images, labels = torch.rand(24, 1, 16, 16), torch.arange(24) % C
    saliency = torch.rand(24, 16, 16) ** 8
    classifier = classifier.float().eval()
    methods = [METHODS["comixup"](classifier, seed=1) for _ in range(2)]
    expected = methods[0].mix_batch(images, labels, saliency)
    with torch.autocast("cpu", torch.bfloat16):
        found = methods[1].mix_batch(images, labels, saliency)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    saliency = saliency_map(classifier, images, labels)
    methods = [METHODS["puzzlemix"](classifier, seed=1) for _ in range(2)]
    expected, found = [], []
    with pytest.MonkeyPatch.context() as patch:  # the network's own rounding left out
        patch.setattr("mmlib.experiments.methods.puzzlemix.saliency_map", lambda *_: saliency)
        for _ in range(4):
            expected += methods[0].mix_batch(images, labels)
            with torch.autocast("cpu", torch.bfloat16):
                found += methods[1].mix_batch(images, labels)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_aligned_features_are_mixed_in_single_precision_under_autocast():
    generator = torch.Generator().manual_seed(0)
    features, partners = (torch.rand(2, 8, 4, 4, generator=generator) for _ in range(2))
    for transport_features in (False, True):
        expected = alignmixup.mix_aligned(features, partners, 0.3, transport_features=transport_features)
        with torch.autocast("cpu", torch.bfloat16):
            found = alignmixup.mix_aligned(features, partners, 0.3, transport_features=transport_features)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


class Reads(TorchDispatchMode):
    """Finds operations of the methods' code for which the host would wait, its own draws excepted."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")
    # A coin is drawn on the host; torch reads labels for one_hot, and the library its arguments, on the CPU only.
    HOST = ("flip_coin", "one_hot")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in self.WAITING:
            frame = sys._getframe(1)
            while frame.f_back and "/mmlib/" not in frame.f_code.co_filename:
                frame = frame.f_back
            if "/mmlib/experiments/" in frame.f_code.co_filename and frame.f_code.co_name not in self.HOST:
                self.found.append(f"{func} at {frame.f_code.co_filename}:{frame.f_lineno}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NEVER_WAITING)
def test_a_step_never_waits(classifier, batch, monkeypatch, name):
    monkeypatch.setattr(alignmixup, "is_on_cpu", lambda _: False)
    method = METHODS[name](classifier, seed=2, **options(name, num_mixtures=20))
    for _ in range(6):
        with Reads() as reads:
            method(*batch).backward()
            method.on_step_end()
        assert not reads.found


def test_waiting_is_seen(classifier, batch):
    method = METHODS["alignmixup"](classifier, probability=1, seed=2)  # on the CPU Sinkhorn's algorithm asks
    with Reads() as reads:
        method(*batch)
    assert any("alignmixup.py" in line for line in reads.found)


@pytest.mark.parametrize("tolerance", [0.5, 0.1, 1e-3])
def test_plans_are_the_same_whether_or_not_the_loop_ends_early(monkeypatch, tolerance):
    cost = 30 * torch.rand(4, 9, 9, generator=torch.Generator().manual_seed(0))
    early = alignmixup.sinkhorn(cost, tolerance=tolerance)
    monkeypatch.setattr(alignmixup, "is_on_cpu", lambda _: False)
    torch.testing.assert_close(alignmixup.sinkhorn(cost, tolerance=tolerance), early, rtol=1e-6, atol=1e-12)


def test_plans_in_single_precision_are_exact():
    """Columns sum to 1/s, and plans and mixtures are those of double precision, at costs of some hundreds."""
    generator = torch.Generator().manual_seed(0)
    features, partners = (6 * torch.rand(8, 64, 4, 4, generator=generator) for _ in range(2))
    a, b = features.flatten(2), partners.flatten(2)
    plan = alignmixup.sinkhorn(alignmixup.squared_distances(a, b).float())
    torch.testing.assert_close(plan.sum(1), torch.full((8, 16), 1 / 16), rtol=1e-6, atol=0)
    single = alignmixup.mix_aligned(features, partners, 0.3, transport_features=True)
    double = alignmixup.mix_aligned(features.double(), partners.double(), 0.3, transport_features=True)
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-5)


class Launches(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def test_the_teacher_of_a_large_network_moves_by_two_operations():
    encoder, d = MODELS["preactresnet18"](3, 32)
    classifier = Classifier(encoder, d, classes=10, mean=(0.5,) * 3, std=(0.2,) * 3)
    teacher = Teacher(classifier, 0.999)
    with Launches() as launches:
        teacher.update(classifier)
    assert launches.count == 2


def test_the_teachers_state_goes_round(classifier, batch):
    method, other = (METHODS["multimix_distill"](copy.deepcopy(classifier), seed=2) for _ in range(2))
    for _ in range(3):
        perturb(method.classifier)
        method.on_step_end()
    other.load_state_dict(method.state_dict())
    for each in (method, other):
        perturb(each.classifier)
        each.on_step_end()
    assert other.teacher.step == method.teacher.step == 4
    torch.testing.assert_close(dict(other.teacher.named_parameters()), dict(method.teacher.named_parameters()))


def test_generators_are_independent_and_move_with_the_classifier(classifier):
    method = METHODS["mixup"](classifier, seed=0)
    host, device = (torch.rand(8, generator=g) for g in (method.cpu_generator, method.generator))
    assert not torch.equal(host, device)
    assert not torch.equal(host, torch.rand(8, generator=torch.Generator().manual_seed(0)))
    classifier.to("meta")
    with pytest.raises(RuntimeError, match="META"):  # torch has no generator there, and the CPU's is not taken
        _ = method.generator


def test_a_state_of_another_device_is_named(classifier):
    method = METHODS["mixup"](classifier)
    with pytest.raises(ValueError, match="must be of a cpu device, got one of a cuda device"):
        method.set_extra_state(method.get_extra_state() | {"device": "cuda"})


@pytest.mark.parametrize(
    ("name", "given", "error", "message"),
    [
        ("mixup", {"alpha": 0}, ValueError, "alpha must be"),
        ("mixup", {"gamma": 1.0}, ValueError, "options must be among alpha for mixup, got 'gamma'"),
        ("erm", {"seed": 1}, ValueError, "options must be among none for erm, got 'seed'"),
        ("multimix", {"num_mixtures": 2.0}, TypeError, "num_mixtures must be an integer >= 1, got 2.0"),
        ("multimix_distill", {"decay": 2}, ValueError, "decay must be a number from 0 to 1, got 2"),
    ],
)
def test_options_are_checked_without_a_network(name, given, error, message):
    before = torch.random.get_rng_state()
    with pytest.raises(error, match=message):
        check_options(name, given)
    for method in METHODS:
        check_options(method, {})
    assert torch.equal(torch.random.get_rng_state(), before)


def test_comixups_pairs_are_not_selected_by_a_mask():
    with Reads() as reads:
        comixup.candidate_labels(torch.rand(2, 5))
    assert not any("select" in line or "nonzero" in line for line in reads.found)
