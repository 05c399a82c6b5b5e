"""Every method against literal formulas in the embedding space, its draws replayed from its own generators."""

import copy
import inspect
import math
import re

import pytest
import torch
import torch.nn.functional as F

from mmlib import DenseMultiMixLoss, MultiMixLoss, MultiMixRecipe, sample_mixing_weights
from mmlib.experiments.methods import METHODS, check_options
from mmlib.experiments.methods.base import option_names
from tests.helpers import C, M, N, assert_same, clone, expected_mixup, perturb, skip_coin
from tests.reference import mixtures


def test_erm(classifier, batch):
    images, labels = batch
    loss = METHODS["erm"](classifier)(images, labels)
    expected = sum(-classifier(images)[i].log_softmax(0)[labels[i]] for i in range(M)) / M
    assert_same(loss, expected, classifier)


def test_mixup(classifier, batch):
    images, labels = batch
    method = METHODS["mixup"](classifier, alpha=0.7, seed=3)
    expected = expected_mixup(method, images, F.one_hot(labels, C).double(), 0.7)
    assert_same(method(images, labels), expected, classifier)


@pytest.mark.parametrize("name", ["multimix", "dense_multimix", "multimix_distill", "dense_multimix_distill"])
def test_input_mixup_on_the_other_mini_batches(classifier, batch, name):
    images, labels = batch
    method = METHODS[name](classifier, probability=0, seed=3)
    before = copy.deepcopy(method)
    skip_coin(before)
    before.classifier = classifier
    targets = F.one_hot(labels, C).double()
    if "distill" in name:
        with torch.no_grad():
            targets = 0.5 * targets + 0.5 * before.teacher(images).softmax(1)
    expected = expected_mixup(before, images, targets, 1.0)
    assert_same(method(images, labels), expected, classifier)


@pytest.mark.parametrize("gamma", [None, 0.0, 0.3, 1.0])
def test_multimix(classifier, batch, gamma):
    images, labels = batch
    name, options = ("multimix", {}) if gamma is None else ("multimix_distill", {"gamma": gamma})
    method = METHODS[name](classifier, num_mixtures=N, alpha=0.5, probability=1, seed=4, **options)
    perturb(classifier)  # so that student and teacher differ
    weights = sample_mixing_weights(N, M, 0.5, generator=clone(method.generator), dtype=torch.double)
    targets = F.one_hot(labels, C).double()
    if gamma is not None:
        method.train()
        with torch.no_grad():
            targets = (1 - gamma) * targets + gamma * method.teacher.eval()(images).softmax(1)
    expected = mixtures.multimix(classifier.embed(images), classifier.head, targets, weights)
    assert_same(method(images, labels), expected, classifier)


@pytest.mark.parametrize("name", ["multimix", "dense_multimix"])
def test_the_librarys_recipe_is_the_method_of_the_experiments(classifier, batch, name):
    """So what the book finds holds for `MultiMixRecipe`, which is what others take."""
    method = METHODS[name](classifier, num_mixtures=N, seed=5)
    generator = clone(method.generator)
    if name == "multimix":
        criterion, given = MultiMixLoss(N, generator=generator), {}
    else:
        criterion = DenseMultiMixLoss(N, generator=generator)
        given = {"features": classifier.features, "head": classifier.head}
    recipe = MultiMixRecipe(criterion, generator=clone(method.cpu_generator))
    for _ in range(6):
        assert_same(recipe(classifier, *batch, **given), method(*batch), classifier)


@pytest.mark.parametrize("gamma", [None, 0.0, 0.3, 1.0])
def test_dense_multimix(classifier, batch, gamma):
    images, labels = batch
    name, options = ("dense_multimix", {}) if gamma is None else ("dense_multimix_distill", {"gamma": gamma})
    method = METHODS[name](classifier, num_mixtures=N, alpha=0.5, probability=1, seed=4, **options)
    perturb(classifier)
    weights = sample_mixing_weights(N, M, 0.5, generator=clone(method.generator), dtype=torch.double)
    features = classifier.features(images).flatten(2)
    attention = mixtures.gap_attention(features.detach())
    targets = F.one_hot(labels, C).double().unsqueeze(1).expand(M, 16, C)
    if gamma is not None:
        with torch.no_grad():
            teacher = method.teacher.module.eval()
            positions = teacher.features(images).flatten(2)
            predicted = torch.stack([teacher.head(positions[:, :, j]).softmax(1) for j in range(16)], dim=1)
            targets = (1 - gamma) * targets + gamma * predicted
    expected = mixtures.dense_multimix(features, classifier.head, targets, attention, weights)
    assert_same(method(images, labels), expected, classifier)


@pytest.mark.parametrize("name", ["multimix", "dense_multimix"])
def test_total_concentration_is_shared_by_the_examples(classifier, batch, name):
    shared = METHODS[name](classifier, num_mixtures=N, alpha=(3.0, 12.0), alpha_is_total=True, probability=1, seed=4)
    each = METHODS[name](classifier, num_mixtures=N, alpha=(3.0 / M, 12.0 / M), probability=1, seed=4)
    assert_same(shared(*batch), each(*batch), classifier)
    assert shared(*batch) != METHODS[name](classifier, num_mixtures=N, alpha=(3.0, 12.0), probability=1, seed=4)(*batch)


def test_half_of_the_mini_batches_interpolate_embeddings(classifier):
    method = METHODS["multimix"](classifier)
    chances = [method.flip_coin(method.probability) for _ in range(2000)]
    assert abs(sum(chances) / 2000 - 0.5) < 0.04  # 3.6 standard deviations


def test_a_coin_that_never_falls_does_not_fall_for_a_draw_of_zero(classifier, monkeypatch):
    method = METHODS["erm"](classifier)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.zeros(()))
    assert method.flip_coin(1e-9)
    assert not method.flip_coin(0.0)


def test_teacher_averages_parameters_and_buffers_with_a_growing_decay(classifier, batch):
    method = METHODS["multimix_distill"](classifier, num_mixtures=N, decay=0.3).train()
    names = dict(classifier.named_parameters()) | dict(classifier.named_buffers())
    expected = {name: value.detach().clone().double() for name, value in names.items()}
    for step in range(1, 6):
        perturb(classifier)
        classifier(batch[0])  # moves BatchNorm's buffers
        method.on_step_end()
        decay = min(0.3, (1 + step) / (10 + step))
        for name, student in names.items():
            expected[name] = decay * expected[name] + (1 - decay) * student.detach().double()
    teacher = dict(method.teacher.module.named_parameters()) | dict(method.teacher.module.named_buffers())
    assert any("running_var" in name for name in expected)
    for name, value in expected.items():
        counts = "num_batches" in name  # they are the student's
        torch.testing.assert_close(teacher[name].double(), names[name].double() if counts else value)


def test_teacher_takes_no_gradient_and_stays_in_evaluation_mode(classifier, batch):
    method = METHODS["dense_multimix_distill"](classifier, num_mixtures=N, probability=1).train()
    before = copy.deepcopy(method.teacher.state_dict())
    method(*batch).backward()
    assert method.teacher.train() is method.teacher
    assert not method.teacher.training
    assert not any(module.training for module in method.teacher.modules())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in method.teacher.parameters())
    torch.testing.assert_close(method.teacher.state_dict(), before)
    assert all(parameter.grad is not None for parameter in classifier.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_state_replays_what_would_have_been_drawn(classifier, batch, name):
    method = METHODS[name](classifier, seed=5)
    method(*batch)
    state = copy.deepcopy(method.state_dict())
    expected = [method(*batch).item() for _ in range(4)]
    other = METHODS[name](copy.deepcopy(classifier), seed=99)
    other.load_state_dict(state)
    torch.manual_seed(123)  # the global generator plays no part
    assert [other(*batch).item() for _ in range(4)] == expected


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"erm"}))
def test_seed_decides(classifier, batch, name):
    methods = [METHODS[name](copy.deepcopy(classifier), seed=seed) for seed in (0, 0, 1)]
    losses = [[method(*batch).item() for _ in range(4)] for method in methods]  # of which CutMix mixes about half
    assert losses[0] == losses[1] != losses[2]


def test_option_names():
    assert option_names(METHODS["erm"]) == set()
    assert option_names(METHODS["multimix"]) == {
        "num_mixtures",
        "alpha",
        "alpha_is_total",
        "probability",
        "mixup_alpha",
    }
    assert option_names(METHODS["dense_multimix_distill"]) == option_names(METHODS["multimix"]) | {"gamma", "decay"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mixup", {"alpha": 0}, "alpha must be"),
        ("multimix", {"num_mixtures": 0}, "num_mixtures must be an integer >= 1, got 0"),
        ("multimix", {"alpha": -1.0}, "alpha must be"),
        ("multimix", {"probability": 1.5}, "probability must be a number from 0 to 1, got 1.5"),
        ("multimix_distill", {"gamma": 2}, "gamma must be a number from 0 to 1, got 2"),
        ("multimix_distill", {"decay": -0.1}, "decay must be a number from 0 to 1, got -0.1"),
    ],
)
def test_impossible_options_are_named(classifier, name, options, message):
    with pytest.raises(ValueError, match=message):
        METHODS[name](classifier, **options)


@pytest.mark.parametrize("seed", [-1, 0.5])
@pytest.mark.usefixtures("unchecked")
def test_seeds_are_checked_and_named(classifier, seed):
    with pytest.raises((TypeError, ValueError), match=r"^seed must be an integer >= 0, got "):
        METHODS["erm"](classifier, seed=seed)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("value", ["x", -7, math.nan, object()], ids=["text", "negative", "nan", "object"])
@pytest.mark.parametrize(
    ("name", "option"), [(name, option) for name in METHODS for option in sorted(option_names(METHODS[name]))]
)
def test_every_option_is_checked_and_named(classifier, name, option, value):
    with pytest.raises((TypeError, ValueError), match=f"^{option} must be "):
        METHODS[name](classifier, **{option: value})


SHARES = [(name, option) for name in METHODS for option in ("probability", "decay", "omega", "anchor_weight")]
SHARES += [(name, "gamma") for name in METHODS if "distill" in name or name == "puzzlemix"]


@pytest.mark.parametrize(("name", "option"), [case for case in SHARES if case[1] in option_names(METHODS[case[0]])])
def test_shares_above_one_are_refused(classifier, name, option):
    with pytest.raises(ValueError, match=f"^{option} must be a number from 0 to 1, got 1.5"):
        METHODS[name](classifier, **{option: 1.5})


def test_defaults_are_the_published_recipe_where_a_docstring_gives_one():
    described = [
        (name, option, float(value))
        for name, method in METHODS.items()
        for option, value in re.findall(
            r"^ +(\w+): (?:(?!^ +\w+: ).)*?\(published\s+recipe:\s([\d.]+)", method.__doc__, re.M | re.S
        )
    ]
    assert len(described) >= 8
    for name, option, value in described:
        assert inspect.signature(METHODS[name].__init__).parameters[option].default == value, (name, option)


DIRICHLET = [(name, "alpha") for name in METHODS if "multimix" in name]
BETA = [
    (name, option) for name in METHODS for option in ("alpha", "mixup_alpha") if option in option_names(METHODS[name])
]
BETA = [case for case in BETA if case not in DIRICHLET]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("name", "option"), BETA)
@pytest.mark.parametrize("value", [(0.5, 2.0), [1, 2], "1", True, 0, -1.0, math.inf], ids=repr)
def test_alpha_of_a_beta_distribution_is_one_positive_number(classifier, name, option, value):
    with pytest.raises((TypeError, ValueError), match=f"^{option} must be a positive number, got "):
        METHODS[name](classifier, **{option: value})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("name", "option"), DIRICHLET)
def test_alpha_of_a_dirichlet_distribution_may_be_an_interval(classifier, name, option):
    assert METHODS[name](classifier, alpha=[1, 2]).alpha == (1.0, 2.0)
    with pytest.raises(ValueError, match=r"^alpha must be a positive number or a pair \(low, high\)"):
        METHODS[name](classifier, **{option: (2, 1)})


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float64, torch.float64), (torch.bfloat16, torch.float32)])
def test_weights_have_the_precision_of_logits_single_at_least(classifier, dtype, expected):
    weights = METHODS["multimix"](classifier).weights(M, torch.zeros(M, C, dtype=dtype))
    assert weights.dtype == expected
    assert weights.shape == (1000, M)


MULTIMIX = {
    "num_mixtures": 1000,
    "alpha": (0.5, 2.0),
    "probability": 0.5,
    "mixup_alpha": 1.0,
    "alpha_is_total": False,
    "seed": 0,
}
DEFAULTS = {
    "erm": {"seed": 0},
    "mixup": {"alpha": 1.0, "seed": 0},
    "cutmix": {"alpha": 1.0, "probability": 0.5, "seed": 0},
    "manifold_mixup": {"alpha": 2.0, "stages": 2, "seed": 0},
    "puzzlemix": {"alpha": 1.0, "beta": 1.2, "gamma": 0.5, "eta": 0.2, "xi": 0.8, "seed": 0},
    "comixup": {
        "alpha": 2.0, "beta": 0.32, "gamma": 1.0, "eta": 0.05, "tau": 0.83, "omega": 0.001, "clean": 1.0, "seed": 0,
    },
    "alignmixup": {"alpha": 2.0, "probability": 0.5, "seed": 0},
    "zeta_mixup": {"gamma": 2.8, "seed": 0},
    "multimix": MULTIMIX,
    "dense_multimix": MULTIMIX,
    "multimix_distill": MULTIMIX | {"gamma": 0.5, "decay": 0.999},
    "dense_multimix_distill": MULTIMIX | {"gamma": 0.5, "decay": 0.999},
    "multimix_tuples": MULTIMIX | {"examples_per_mixture": 2},
    "multimix_one_alpha": MULTIMIX,
    "multimix_hidden": MULTIMIX | {"stage": 1},
    "dense_multimix_attention": MULTIMIX | {"query": "cam", "nonlinearity": "relu", "train_attention": False},
    "multimix_distill_at_mixture": MULTIMIX | {"gamma": 0.5, "decay": 0.999},
    "multimix_amplified": MULTIMIX,
    "multimix_annealed": MULTIMIX | {"factor": 0.01, "steps": 1000},
    "multimix_around": MULTIMIX | {"anchor_weight": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_defaults_are_those_that_the_records_were_made_with(name):
    parameters = inspect.signature(METHODS[name].__init__).parameters
    options = option_names(METHODS[name]) | {"seed"}
    assert {option: parameters[option].default for option in options} == DEFAULTS[name]


def test_methods_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match=r"method must be 'erm', .* got 'foo'"):
        check_options("foo", {})
