"""MultiMix with one choice made otherwise, against literal formulas and against what it is a case of."""

import copy
from inspect import signature

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kstest

from mmlib import attention_map, sample_mixing_weights
from mmlib.attention import softmax_attention_map
from mmlib.experiments.methods import METHODS
from mmlib.experiments.methods.sparse_multimix import sample_sparse_weights
from tests.helpers import C, M, N, assert_same, clone, expected_mixup, perturb, skip_coin
from tests.reference import mixtures


def one_hot(labels):
    return F.one_hot(labels, C).double()


def test_tuples_are_random_subsets_with_the_weights_of_that_many():
    generator = torch.Generator().manual_seed(0)
    weights = sample_sparse_weights(4000, 5, 3, 0.7, generator=generator, dtype=torch.double)
    torch.testing.assert_close(weights.sum(1), torch.ones(4000).double())
    chosen = weights > 0
    assert (chosen.sum(1) == 3).all()
    subsets, counts = chosen.unique(dim=0, return_counts=True)
    assert len(subsets) == 10
    assert (counts - 400).abs().max() < 5 * 19  # five standard deviations
    # A coordinate of a symmetric Dirichlet distribution of three is Beta(α, 2 α).
    assert kstest(weights[chosen[:, 0], 0].numpy(), "beta", args=(0.7, 1.4)).pvalue > 1e-3


@pytest.mark.parametrize("length", [2, 4])
def test_multimix_of_tuples(classifier, batch, length):
    images, labels = batch
    method = METHODS["multimix_tuples"](
        classifier, examples_per_mixture=length, num_mixtures=N, alpha=0.5, probability=1, seed=4
    )
    weights = sample_sparse_weights(N, M, length, 0.5, generator=clone(method.generator), dtype=torch.double)
    expected = mixtures.multimix(classifier.embed(images), classifier.head, one_hot(labels), weights)
    assert_same(method(images, labels), expected, classifier)


def test_tuples_of_one_are_the_examples_themselves(classifier, batch):
    images, labels = batch
    method = METHODS["multimix_tuples"](classifier, examples_per_mixture=1, num_mixtures=N, probability=1, seed=4)
    drawn = sample_sparse_weights(N, M, 1, generator=clone(method.generator), dtype=torch.double).argmax(dim=1)
    assert_same(method(images, labels), F.cross_entropy(classifier(images)[drawn], labels[drawn]), classifier)


def test_tuples_of_the_whole_mini_batch_are_multimix_of_shuffled_examples(classifier):
    method = METHODS["multimix_tuples"](classifier, examples_per_mixture=M, num_mixtures=N, alpha=0.5, seed=4)
    expected = sample_mixing_weights(N, M, 0.5, generator=clone(method.generator), dtype=torch.double)
    weights = method.weights(M, torch.zeros(M, C, dtype=torch.double))
    torch.testing.assert_close(weights.sort(dim=1).values, expected.sort(dim=1).values)


def test_concentrations_of_tuples_are_by_default_those_of_mixing_weights():
    tuples, weights = (signature(draw).parameters["alpha"] for draw in (sample_sparse_weights, sample_mixing_weights))
    assert tuples.default == weights.default


def test_tuples_are_the_same_with_another_default_type():
    def drawn():
        generator = torch.Generator().manual_seed(0)
        return sample_sparse_weights(20, 5, 2, generator=generator, dtype=torch.double)

    expected = drawn()
    torch.set_default_dtype(torch.double)
    try:
        torch.testing.assert_close(drawn(), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("of", "length", "message"),
    [
        (0, 1, "num_examples must be an integer >= 1, got 0"),
        (5, 0, "examples_per_mixture must be an integer >= 1, got 0"),
        (5, 2.0, "examples_per_mixture must be an integer >= 1, got 2.0"),
        (5, 6, "examples_per_mixture must be at most num_examples=5, got 6"),
    ],
)
def test_impossible_tuples_are_named(of, length, message):
    with pytest.raises((TypeError, ValueError), match=message):
        sample_sparse_weights(3, of, length)


def test_tuples_longer_than_the_mini_batch_are_named(classifier, batch):
    with pytest.raises(
        ValueError, match="examples_per_mixture must be at most 6, the examples of the mini-batch, got 7"
    ):
        METHODS["multimix_tuples"](classifier, examples_per_mixture=7, probability=1)(*batch)


def test_one_alpha_for_the_mini_batch(classifier, batch):
    images, labels = batch
    method = METHODS["multimix_one_alpha"](classifier, num_mixtures=N, alpha=(0.6, 3.0), probability=1, seed=4)
    host = clone(method.cpu_generator)
    torch.rand((), generator=host)
    alpha = 0.6 + 2.4 * torch.rand((), generator=host, dtype=torch.double).item()
    weights = sample_mixing_weights(N, M, alpha, generator=clone(method.generator), dtype=torch.double)
    expected = mixtures.multimix(classifier.embed(images), classifier.head, one_hot(labels), weights)
    assert_same(method(images, labels), expected, classifier)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_mixtures_of_a_hidden_layer(classifier, batch, stage):
    images, labels = batch
    method = METHODS["multimix_hidden"](classifier, stage=stage, num_mixtures=N, alpha=0.5, probability=1, seed=4)
    weights = sample_mixing_weights(N, M, 0.5, generator=clone(method.generator), dtype=torch.double)
    stem, first, second = classifier.encoder
    hidden = (images - 0.4) / 0.2
    hidden = hidden if stage == 0 else first(stem(hidden)) if stage == 1 else second(first(stem(hidden)))
    mixed = torch.stack([mixtures.mixture(row, hidden) for row in weights])
    mixed = second(first(stem(mixed))) if stage == 0 else second(mixed) if stage == 1 else mixed
    logits = classifier.head(mixed.mean((2, 3)))
    targets = [mixtures.mixture(row, one_hot(labels)) for row in weights]
    expected = sum(mixtures.cross_entropy(row, target) for row, target in zip(logits, targets)) / N
    assert_same(method(images, labels), expected, classifier)


def test_mixtures_of_the_last_layer_are_multimix(classifier, batch):
    losses = [
        METHODS[name](classifier, num_mixtures=N, probability=1, seed=4, **options)(*batch)
        for name, options in (("multimix_hidden", {"stage": 2}), ("multimix", {}))
    ]
    assert_same(*losses, classifier)


@pytest.mark.parametrize("nonlinearity", ["relu", "softmax"])
@pytest.mark.parametrize("query", ["gap", "cam", "uniform"])
def test_attention(classifier, batch, query, nonlinearity):
    images, labels = batch
    options = {"query": query, "nonlinearity": nonlinearity}
    method = METHODS["dense_multimix_attention"](
        classifier, num_mixtures=N, alpha=0.5, probability=1, seed=4, **options
    )
    weights = sample_mixing_weights(N, M, 0.5, generator=clone(method.generator), dtype=torch.double)
    features = classifier.features(images).flatten(2)
    attention = torch.empty(M, 16).double()
    for i, z in enumerate(features.detach()):
        u = {"gap": z.mean(1), "cam": classifier.head.weight[labels[i]].detach(), "uniform": torch.zeros(8).double()}
        scores = torch.stack([torch.dot(z[:, j], u[query]) for j in range(16)])
        scores = scores.exp() if nonlinearity == "softmax" else scores.clamp(min=0)
        attention[i] = scores / scores.sum() if scores.sum() > 0 else 1 / 16
    targets = one_hot(labels).unsqueeze(1).expand(M, 16, C)
    expected = mixtures.dense_multimix(features, classifier.head, targets, attention, weights)
    assert_same(method(images, labels), expected, classifier)


@pytest.mark.parametrize("query", ["gap", "cam", "uniform"])
def test_all_attention_is_on_the_only_position(classifier, batch, query):
    method = METHODS["dense_multimix_attention"](classifier, query=query)
    features = torch.rand(M, 8, 1, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    torch.testing.assert_close(method.attention(features, batch[1]), torch.ones(M, 1).double())


def test_default_attention_is_that_of_dense_multimix(classifier, batch):
    options = {"num_mixtures": N, "probability": 1, "seed": 4}
    ours = METHODS["dense_multimix_attention"](classifier, query="gap", nonlinearity="relu", **options)(*batch)
    assert ours.item() == METHODS["dense_multimix"](classifier, **options)(*batch).item()


@pytest.mark.parametrize("query", ["gap", "cam"])
def test_learnt_attention_has_gradients(classifier, batch, query):
    """Gradients of the whole formula, by finite differences along a random direction of the features' weights."""
    images, labels = batch
    options = {"query": query, "num_mixtures": N, "alpha": 0.5, "probability": 1, "seed": 4}
    weight = classifier.encoder[0].weight
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3), dtype=torch.double)
    loss = METHODS["dense_multimix_attention"](classifier, train_attention=True, **options)(images, labels)
    slope = (torch.autograd.grad(loss, weight)[0] * direction).sum()
    values = []
    with torch.no_grad():
        for step in (1e-6, -2e-6):
            weight += step * direction
            values.append(METHODS["dense_multimix_attention"](classifier, **options)(images, labels))
        weight += 1e-6 * direction
    torch.testing.assert_close((values[0] - values[1]) / 2e-6, slope, rtol=1e-5, atol=1e-8)
    detached = METHODS["dense_multimix_attention"](classifier, **options)(images, labels)
    assert abs((torch.autograd.grad(detached, weight)[0] * direction).sum() - slope) > 1e-4 * abs(slope)


def test_softmax_attention_of_large_scores_is_finite():
    features = torch.tensor([[[1e4, 0.0, 1e4]]])
    torch.testing.assert_close(softmax_attention_map(features, torch.ones(1)), torch.tensor([[0.5, 0.0, 0.5]]))
    assert attention_map(features, torch.zeros(1)).unique() == torch.tensor([1 / 3])


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_teacher_at_mixtures(classifier, batch, gamma):
    images, labels = batch
    method = METHODS["multimix_distill_at_mixture"](
        classifier, num_mixtures=N, alpha=0.5, gamma=gamma, probability=1, seed=4
    ).train()
    perturb(classifier)
    weights = sample_mixing_weights(N, M, 0.5, generator=clone(method.generator), dtype=torch.double)
    teacher = copy.deepcopy(method.teacher.module).eval()
    with torch.no_grad():
        taught, labelled = teacher.embed(images), one_hot(labels)
        targets = []
        for row in weights:
            predicted = teacher.head(mixtures.mixture(row, taught)).softmax(0)
            targets.append((1 - gamma) * mixtures.mixture(row, labelled) + gamma * predicted)
    embeddings = classifier.embed(images)
    logits = [classifier.head(mixtures.mixture(row, embeddings)) for row in weights]
    expected = sum(mixtures.cross_entropy(row, target) for row, target in zip(logits, targets)) / N
    assert_same(method(images, labels), expected, classifier)


def test_teacher_at_mixed_images(classifier, batch):
    images, labels = batch
    method = METHODS["multimix_distill_at_mixture"](classifier, gamma=0.3, probability=0, seed=4).train()
    perturb(classifier)
    before = METHODS["multimix"](classifier, seed=4)
    skip_coin(before)
    host = clone(before.cpu_generator)
    lam = sample_mixing_weights(1, 2, 1.0, generator=host, dtype=torch.double)[0, 0]
    partners = torch.randperm(M, generator=host)
    mixed = lam * images + (1 - lam) * images[partners]
    with torch.no_grad():
        predicted = copy.deepcopy(method.teacher.module).eval()(mixed).softmax(1)
    targets = 0.7 * (lam * one_hot(labels) + (1 - lam) * one_hot(labels)[partners]) + 0.3 * predicted
    expected = -(targets * classifier(mixed).log_softmax(1)).sum(1).mean()
    assert_same(method(images, labels), expected, classifier)


@pytest.mark.parametrize(
    "name",
    ["multimix_tuples", "multimix_one_alpha", "multimix_hidden", "dense_multimix_attention"],
)
def test_input_mixup_on_the_other_mini_batches(classifier, batch, name):
    images, labels = batch
    method = METHODS[name](classifier, probability=0, seed=3)
    before = METHODS[name](classifier, probability=0, seed=3)
    skip_coin(before)
    assert_same(method(images, labels), expected_mixup(before, images, one_hot(labels), 1.0), classifier)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "multimix_tuples",
            {"examples_per_mixture": 0},
            "examples_per_mixture must be an integer >= 1, got 0",
        ),
        ("multimix_hidden", {"stage": -1}, "stage must be an integer >= 0, got -1"),
        ("dense_multimix_attention", {"query": "max"}, "query must be 'gap', 'cam' or 'uniform', got 'max'"),
        ("dense_multimix_attention", {"nonlinearity": "elu"}, "nonlinearity must be 'relu' or 'softmax', got 'elu'"),
        ("multimix_one_alpha", {"alpha": -1.0}, "alpha must be"),
    ],
)
def test_impossible_options_are_named(classifier, name, options, message):
    with pytest.raises(ValueError, match=message):
        METHODS[name](classifier, **options)


def test_stage_that_is_not_there_is_named(classifier, batch):
    with pytest.raises(ValueError, match="stage must be from 0 to 2 for this encoder, got 3"):
        METHODS["multimix_hidden"](classifier, stage=3, probability=1)(*batch)
