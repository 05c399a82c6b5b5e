"""What an evaluation reports, against the functions that it is made of and on classifiers of every precision."""

import copy
import json
from functools import partial

import pytest
import torch

from mmlib import metrics
from mmlib.experiments import data
from mmlib.experiments.evaluation import ood, predict
from mmlib.experiments.evaluation.robustness import adversarial_error, fgsm, pgd
from mmlib.experiments.evaluation.suite import EPSILONS, evaluate
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
    assert numbers["fgsm_error"] == adversarial_error(classifier, split, fgsm)
    assert numbers["pgd_error"] == adversarial_error(classifier, split, pgd)
    assert len(numbers["pgd_errors"]) == len(EPSILONS) == 6
    clean = 100 - metrics.accuracy(predict(classifier, split).logits, split.labels)
    assert numbers["pgd_errors"][0] == pytest.approx(clean)
    last = partial(pgd, epsilon=16 / 255, step=8 / 255)
    assert numbers["pgd_errors"][-1] == adversarial_error(classifier, split, last)
    assert numbers["pgd_errors"] == sorted(numbers["pgd_errors"])
    few, _ = evaluate(classifier, digits, attacked_per_class=2, out_sets=())
    assert few["attacked_images"] == 20
    assert few["fgsm_error"] == adversarial_error(classifier, digits.test.first_per_class(2), fgsm)


def test_embedding_space_is_that_of_test_and_train(classifier, digits, evaluated):
    numbers, (embeddings, _) = evaluated
    known, labels = predict(classifier, digits.train).embeddings, digits.test.labels
    assert numbers["knn_accuracy"] == metrics.knn_accuracy(known, digits.train.labels, embeddings, labels)
    assert numbers["class_mean_cosine"] == metrics.class_mean_cosine(embeddings, labels)


def test_out_sets_are_told_apart_by_both_scores(classifier, digits, tmp_path):
    numbers, (_, logits) = evaluate(classifier, digits, attacked_per_class=0, out_sets=("gaussian", "shapes"))
    assert list(numbers["ood"]) == ["gaussian", "shapes"]
    for name, found in numbers["ood"].items():
        assert found.keys() == SCORES
        out = predict(classifier, ood.load_ood_images(name, digits.test, len(digits.test))).logits
        assert len(out) == len(logits)
        assert found["energy"] == ood.detection(ood.energy(logits), ood.energy(out))
        assert found["maximum_softmax"] == ood.detection(ood.maximum_softmax(logits), ood.maximum_softmax(out))


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_classifiers_of_every_precision(classifier, digits, evaluated, dtype):
    numbers, predictions = evaluate(copy.deepcopy(classifier).to(dtype).train(), digits)
    assert predictions.logits.dtype == dtype
    tolerance = 0.5 if dtype is torch.float64 else 8
    for name in ("accuracy", "knn_accuracy", "fgsm_error", "pgd_error"):
        assert numbers[name] == pytest.approx(evaluated[0][name], abs=tolerance)
    expected = evaluated[0]["ood"]["uniform"]["energy"]["auroc"]
    assert numbers["ood"]["uniform"]["energy"]["auroc"] == pytest.approx(expected, abs=tolerance)


def test_impossible_numbers_are_refused(classifier, digits):
    with pytest.raises(ValueError, match="attacked_per_class is -1; it takes a whole number of at least 0"):
        evaluate(classifier, digits, attacked_per_class=-1)
    with pytest.raises(ValueError, match="test set is 'nois'"):
        evaluate(classifier, digits, attacked_per_class=0, out_sets=("nois",))
