"""What an evaluation reports, against the functions that it is made of and on classifiers of every precision."""

import copy
import dataclasses
import json
from functools import partial

import pytest
import torch
from torch import nn

from mmlib import metrics
from mmlib.experiments import data, models
from mmlib.experiments.data.split import Split
from mmlib.experiments.evaluation import predict
from mmlib.experiments.evaluation.ood import energy_score, load_ood_images, max_softmax_probability, ood_metrics
from mmlib.experiments.evaluation.robustness import adversarial_error, fgsm, pgd
from mmlib.experiments.evaluation.suite import EPSILONS, evaluate
from mmlib.experiments.models.classifier import Classifier
from mmlib.experiments.training.config import Config
from mmlib.experiments.training.trainer import train

SCORES = {"maximum_softmax", "energy"}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def classifier(digits):
    return train(Config(method="erm", epochs=20), digits).classifier


@pytest.fixture(scope="module")
def evaluated(classifier, digits):
    return evaluate(classifier, digits)


def test_attacks_are_those_of_a_balanced_subset(classifier, digits, evaluated):
    numbers, _ = evaluated
    split = digits.test.first_per_class(10)
    assert numbers["attacked_images"] == len(split) == 100
    assert numbers["fgsm_error"] == adversarial_error(classifier, split, fgsm, 50)
    assert numbers["pgd_error"] == adversarial_error(classifier, split, pgd, 50)
    assert len(numbers["pgd_errors"]) == len(EPSILONS) == 6
    clean = 100 - metrics.accuracy(predict(classifier, split).logits, split.labels).item()
    assert numbers["pgd_errors"][0] == pytest.approx(clean)
    last = partial(pgd, epsilon=16 / 255, step=8 / 255)
    assert numbers["pgd_errors"][-1] == adversarial_error(classifier, split, last, 50)
    assert numbers["pgd_errors"] == sorted(numbers["pgd_errors"])
    few, _ = evaluate(classifier, digits, attacked_per_class=2, out_sets=())
    assert few["attacked_images"] == 20
    assert few["fgsm_error"] == adversarial_error(classifier, digits.test.first_per_class(2), fgsm, 50)


def test_embedding_space_is_that_of_test_and_train(classifier, digits, evaluated):
    numbers, (embeddings, _) = evaluated
    train_embeddings, labels = predict(classifier, digits.train).embeddings, digits.test.labels
    assert numbers["knn_accuracy"] == metrics.knn_accuracy(train_embeddings, digits.train.labels, embeddings, labels)
    assert numbers["class_mean_cosine"] == metrics.class_mean_cosine(embeddings, labels)


@pytest.mark.slow
def test_out_sets_are_told_apart_by_both_scores(classifier, digits, tmp_path):
    numbers, (_, logits) = evaluate(classifier, digits, attacked_per_class=0, out_sets=("gaussian", "shapes"))
    assert list(numbers["ood"]) == ["gaussian", "shapes"]
    for name, found in numbers["ood"].items():
        assert found.keys() == SCORES
        out = predict(classifier, load_ood_images(name, digits.test, len(digits.test))).logits
        assert len(out) == len(logits)
        assert found["energy"] == ood_metrics(energy_score(logits), energy_score(out))
        assert found["maximum_softmax"] == ood_metrics(max_softmax_probability(logits), max_softmax_probability(out))


def test_skipped_parts_are_empty(classifier, digits, evaluated):
    numbers, _ = evaluate(classifier, digits, attacked_per_class=0, out_sets=())
    empty = {"fgsm_error": None, "pgd_error": None, "pgd_errors": None, "attacked_images": 0, "ood": {}}
    assert {name: numbers[name] for name in empty} == empty
    assert numbers.keys() == evaluated[0].keys()
    rest = numbers.keys() - empty.keys()
    assert {name: numbers[name] for name in rest} == {name: evaluated[0][name] for name in rest}


def test_evaluation_repeats_itself_and_is_read_back(classifier, digits, evaluated):
    again, _ = evaluate(classifier, digits)
    assert again == evaluated[0]
    assert json.loads(json.dumps(again), parse_constant=pytest.fail) == again


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_classifiers_of_every_precision(classifier, digits, evaluated, dtype):
    numbers, predictions = evaluate(copy.deepcopy(classifier).to(dtype).train(), digits)
    assert predictions.logits.dtype == dtype
    tolerance = 0.5 if dtype is torch.float64 else 8
    for name in ("accuracy", "knn_accuracy", "fgsm_error", "pgd_error"):
        assert numbers[name] == pytest.approx(evaluated[0][name], abs=tolerance)
    expected = evaluated[0]["ood"]["uniform"]["energy"]["auroc"]
    assert numbers["ood"]["uniform"]["energy"]["auroc"] == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"attacked_per_class": -1}, ValueError, "attacked_per_class must be an integer >= 0, got -1"),
        ({"attacked_per_class": 2.0}, TypeError, "attacked_per_class must be an integer >= 0, got 2.0"),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer >= 1, got 0"),
        ({"out_sets": [1]}, TypeError, "out_sets"),
        ({"out_sets": "uniform"}, TypeError, "out_sets must be a sequence of names, got 'uniform'"),
        ({"out_sets": ["uniform", "nois"]}, ValueError, "test set must be svhn, .*, got 'nois'"),
        ({"out_sets": ["not/there"]}, FileNotFoundError, "got 'not/there', which is not there"),
    ],
)
def test_impossible_arguments_are_refused_before_any_work(digits, options, error, message):
    with pytest.raises(error, match=message):
        evaluate(models.build("preactresnet-small", digits), digits, **options)


def test_numbers_that_cannot_be_computed_are_none(classifier, digits):
    """The test set lacks class 3, and has one image a class: no pair is of one class."""
    few = digits.test.first_per_class(1)
    dataset = dataclasses.replace(digits, test=few[few.labels != 3])
    numbers, _ = evaluate(classifier, dataset, attacked_per_class=0, out_sets=())
    assert [k for k, value in enumerate(numbers["class_accuracy"]) if value is None] == [3]
    assert numbers["alignment"] is None
    assert json.loads(json.dumps(numbers), parse_constant=pytest.fail) == numbers


def test_embeddings_and_logits_leave_the_device_batch_by_batch(classifier, digits):
    """What lives longer than a batch is on the CPU: the head is never given more than a batch."""
    seen = []
    hook = classifier.head.register_forward_hook(lambda head, given, made: seen.append(len(made)))
    try:
        embeddings, logits = predict(classifier, digits.test, 400)
    finally:
        hook.remove()
    assert seen == [400, 400, 70]
    whole = predict(classifier, digits.test, 870)
    torch.testing.assert_close(embeddings, whole.embeddings, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits, whole.logits, rtol=1e-5, atol=1e-5)


def test_attacks_take_the_batch_size_of_training(classifier, digits):
    seen = []
    hook = classifier.register_forward_hook(lambda module, given, made: seen.append(len(made)))
    try:
        evaluate(classifier, digits, attacked_per_class=5, out_sets=(), batch_size=15)
    finally:
        hook.remove()
    assert set(seen) == {15, 5}


@pytest.mark.parametrize(("size", "batch_size"), [(8, 500), (64, 500), (224, 40), (2000, 1)])
def test_larger_images_come_in_smaller_batches(size, batch_size):
    sizes = []

    class Images:
        shape = torch.Size((1000, 3, size, size))

        def __len__(self):
            return 1000

        def __getitem__(self, index):
            return self

        def to(self, device):
            return self

        def split(self, count):
            sizes.append(count)
            yield torch.zeros(1000, 3, 2, 2, dtype=torch.uint8)

    network = Classifier(nn.Sequential(nn.Identity()), 3, classes=2, mean=(0.0,) * 3, std=(1.0,) * 3)
    predict(network, Split(Images(), torch.zeros(1000, dtype=torch.long)))
    assert sizes == [batch_size]
