"""Metrics against loops over pairs and against torchmetrics."""

import math

import numpy as np
import pytest
import torch
from reference import metrics as reference
from sklearn.calibration import calibration_curve
from sklearn.neighbors import KNeighborsClassifier
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from mmlib.metrics import (
    accuracy,
    alignment,
    calibration_error,
    class_mean_cosine,
    knn_accuracy,
    reliability,
    uniformity,
)


def embeddings_and_labels(n: int, classes: int, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(n)
    labels = torch.randint(classes, (n,), generator=generator)
    embeddings = torch.randn(n, 4, generator=generator, dtype=dtype) * 3 + labels.unsqueeze(1)
    return embeddings, labels


@pytest.mark.parametrize("classes", [1, 3, 30])
def test_alignment_is_a_mean_over_pairs_of_a_class(classes):
    embeddings, labels = embeddings_and_labels(40, classes)
    assert alignment(embeddings, labels) == pytest.approx(reference.alignment(embeddings, labels), rel=1e-9)


def test_alignment_in_single_precision():
    embeddings, labels = embeddings_and_labels(40, 3, torch.float32)
    assert alignment(embeddings, labels) == pytest.approx(reference.alignment(embeddings, labels), rel=1e-5)


def test_alignment_skips_classes_without_pairs():
    embeddings, labels = torch.eye(4), torch.tensor([0, 7, 7, 2])
    assert alignment(embeddings, labels) == pytest.approx(2.0)
    assert alignment(embeddings[:2], labels[:2]) != alignment(embeddings[:2], labels[:2])  # NaN: no pair at all


@pytest.mark.parametrize("t", [0.5, 2.0])
@pytest.mark.parametrize(
    ("n", "dtype", "rel"), [(2, torch.float64, 1e-9), (60, torch.float64, 1e-9), (60, torch.float32, 1e-5)]
)
def test_uniformity_is_a_mean_over_pairs(n, dtype, rel, t):
    embeddings, _ = embeddings_and_labels(n, 3, dtype)
    assert uniformity(embeddings, t) == pytest.approx(reference.uniformity(embeddings, t), rel=rel)


@pytest.mark.parametrize("n", [511, 512, 513, 1100])
def test_uniformity_visits_every_pair_once_across_blocks(n):
    embeddings, _ = embeddings_and_labels(n, 3)
    squares = torch.pdist(torch.nn.functional.normalize(embeddings, dim=1)).square()
    assert uniformity(embeddings) == pytest.approx(math.log(float((-2 * squares).exp().mean())), rel=1e-9)


def test_collapse_is_the_worst_uniformity():
    assert uniformity(torch.ones(600, 3, dtype=torch.float64)) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("k", [1, 5])
def test_accuracy_is_that_of_torchmetrics(k):
    logits, labels = torch.randn(200, 8, generator=torch.Generator().manual_seed(0)), torch.arange(200) % 8
    expected = multiclass_accuracy(logits, labels, num_classes=8, average="micro", top_k=k)
    assert accuracy(logits, labels, k) == pytest.approx(100 * float(expected), rel=1e-6)


@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_is_that_of_torchmetrics(bins, scale):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(500, 6, generator=generator, dtype=torch.float64) * scale
    labels = torch.multinomial(logits.div(2).softmax(1), 1, generator=generator).squeeze(1)
    expected = multiclass_calibration_error(logits, labels, num_classes=6, n_bins=bins, norm="l1")
    assert calibration_error(logits, labels, bins) == pytest.approx(100 * float(expected), rel=1e-4)


@pytest.mark.parametrize("bins", [4, 15])
def test_reliability_is_that_of_scikit_learn(bins):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(400, 4, generator=generator, dtype=torch.float64) * 3
    labels = torch.randint(4, (400,), generator=generator)
    labels[:200] = logits[:200].argmax(1)
    count, confidence, right = reliability(logits, labels, bins)
    top, prediction = logits.softmax(1).max(1)
    accuracies, confidences = calibration_curve(prediction == labels, top, n_bins=bins)
    held = count > 0
    np.testing.assert_allclose(right[held] / count[held], accuracies)
    np.testing.assert_allclose(confidence[held] / count[held], confidences)
    assert count.sum() == 400


def test_calibration_of_a_certain_prediction():
    logits = torch.tensor([[100.0, 0.0]] * 4)
    assert calibration_error(logits, torch.tensor([0, 0, 0, 1])) == pytest.approx(25.0)


@pytest.mark.parametrize(("k", "dtype"), [(1, torch.float64), (15, torch.float64), (15, torch.float32)])
def test_knn_accuracy_is_that_of_scikit_learn(k, dtype):
    """Of two classes and an odd k: no ties. More rows than a block."""
    known, asked = embeddings_and_labels(300, 2, dtype), embeddings_and_labels(700, 2, dtype)
    expected = KNeighborsClassifier(k, metric="cosine").fit(*known).score(*asked)
    assert knn_accuracy(*known, *asked, k=k) == pytest.approx(100 * expected, abs=1e-4)


@pytest.mark.parametrize(("k", "known"), [(20, 300), (4, 300), (20, 12)])
def test_knn_ties_go_to_the_nearest(k, known):
    known, asked = embeddings_and_labels(known, 9), embeddings_and_labels(301, 9)
    expected = reference.knn_accuracy(*known, *asked, k)
    assert knn_accuracy(*known, *asked, k=k) == pytest.approx(100 * expected, abs=1e-4)


def test_class_mean_cosine_is_a_mean_over_pairs_of_classes():
    embeddings, labels = embeddings_and_labels(200, 6)
    labels[labels == 2] = 9  # class 2 has no example, 6, 7 and 8 neither
    expected = reference.class_mean_cosine(embeddings, labels)
    assert class_mean_cosine(embeddings, labels) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("c", [2, 3, 10])
def test_class_means_of_a_simplex(c):
    generator = torch.Generator().manual_seed(c)
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64))[0]
    labels = torch.arange(4 * c) % c
    within = torch.randn(2 * c, 12, generator=generator, dtype=torch.float64)
    embeddings = 3 * rotation[labels] + torch.cat([within, -within]) + 5
    assert class_mean_cosine(embeddings, labels) == pytest.approx(-1 / (c - 1), abs=1e-12)
    assert math.isnan(class_mean_cosine(embeddings, torch.zeros_like(labels)))
