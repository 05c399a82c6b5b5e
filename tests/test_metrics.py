"""Metrics against loops over pairs and against torchmetrics."""

import math

import pytest
import torch
from reference import metrics as reference
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from mmlib.metrics import accuracy, alignment, calibration_error, uniformity


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


def test_calibration_of_a_certain_prediction():
    logits = torch.tensor([[100.0, 0.0]] * 4)
    assert calibration_error(logits, torch.tensor([0, 0, 0, 1])) == pytest.approx(25.0)
