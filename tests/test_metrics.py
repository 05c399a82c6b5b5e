"""Metrics against loops over pairs, closed forms, scikit-learn and torchmetrics."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import special
from sklearn.calibration import calibration_curve
from sklearn.metrics import calinski_harabasz_score
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

import mmlib.metrics
from mmlib.metrics import (
    accuracy,
    alignment,
    calibration_error,
    class_mean_cosine,
    class_means,
    class_variances,
    confusion_matrix,
    knn_accuracy,
    reliability_bins,
    uniformity,
)
from tests.reference import metrics as reference

INTEGER_TYPES = [torch.uint8, torch.int8, torch.int16, torch.int32]
HALVES = [torch.bfloat16, torch.float16]


def embeddings_and_labels(n: int, classes: int, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(n)
    labels = torch.randint(classes, (n,), generator=generator)
    embeddings = torch.randn(n, 4, generator=generator, dtype=dtype) * 3 + labels.unsqueeze(1)
    return embeddings, labels


@pytest.mark.parametrize("classes", [1, 3, 30])
def test_alignment_is_a_mean_over_pairs_of_a_class(classes):
    embeddings, labels = embeddings_and_labels(40, classes)
    assert alignment(embeddings, labels) == pytest.approx(reference.alignment(embeddings, labels), rel=1e-9)


def simplex(k: int) -> torch.Tensor:
    """k points on the sphere, each two as far apart as k can be: ‖u - v‖² = 2k / (k - 1)."""
    return torch.eye(k, dtype=torch.float64) - 1 / k


def circle(k: int) -> torch.Tensor:
    """k points on the circle, at equal angles."""
    angles = 2 * math.pi * torch.arange(k, dtype=torch.float64) / k
    return torch.stack([angles.cos(), angles.sin()], dim=1)


@pytest.mark.parametrize("k", [2, 3, 7])
def test_alignment_of_known_points(k):
    for points, square in (
        (torch.eye(k, dtype=torch.float64), 2),
        (simplex(k), 2 * k / (k - 1)),
        (simplex(k) * 0 + 1, 0),
    ):
        assert alignment(5 * points, torch.zeros(k, dtype=torch.long)) == pytest.approx(square, abs=1e-12)
    # The squared chords of a circle of k points, 2 - 2 cos, add up to 2k over all partners, the point itself included.
    assert alignment(circle(k), torch.zeros(k, dtype=torch.long)) == pytest.approx(2 * k / (k - 1))
    together = alignment(torch.cat([simplex(k), torch.eye(k)]), torch.arange(2).repeat_interleave(k))
    assert together == pytest.approx((2 * k / (k - 1) + 2) / 2)  # as many pairs of either class


@pytest.mark.parametrize("t", [0.5, 2.0])
@pytest.mark.parametrize("k", [2, 3, 7])
def test_uniformity_of_known_points(k, t):
    """All pairs of a simplex, or of an orthonormal basis, have one distance, and one potential."""
    assert uniformity(simplex(k), t) == pytest.approx(-t * 2 * k / (k - 1))
    assert uniformity(torch.eye(k, dtype=torch.float64), t) == pytest.approx(-2 * t)


@pytest.mark.parametrize("t", [0.5, 2.0])
@pytest.mark.parametrize("k", [64, 3000])
def test_uniformity_of_a_circle_is_a_bessel_function(k, t):
    """The mean of exp(-t (2 - 2 cos θ)) over all angles is exp(-2t) I₀(2t); a point beside itself has potential 1."""
    potential = (k * special.ive(0, 2 * t) - 1) / (k - 1)
    assert uniformity(circle(k), t) == pytest.approx(math.log(potential), rel=1e-9)


@pytest.mark.parametrize("classes", [2, 5])
def test_class_metrics_are_those_of_scikit_learn(classes):
    embeddings, labels = embeddings_and_labels(90, classes)
    within, between = class_variances(embeddings, labels)
    score = calinski_harabasz_score(F.normalize(embeddings, dim=1), labels)  # of sums of squares, over their freedoms
    assert (between / (classes - 1)) / (within / (90 - classes)) == pytest.approx(score, rel=1e-9)
    means, sizes = class_means(embeddings, labels)
    np.testing.assert_allclose(means, NearestCentroid().fit(embeddings, labels).centroids_, rtol=1e-12)
    assert sizes.tolist() == np.bincount(labels).tolist()
    cosines = cosine_similarity(means - embeddings.mean(0))
    expected = cosines[np.triu_indices(classes, 1)].mean()
    assert class_mean_cosine(embeddings, labels) == pytest.approx(expected, abs=1e-12)


def test_confusion_matrix_is_that_of_scikit_learn():
    logits, labels = torch.randn(300, 7, generator=torch.Generator().manual_seed(3)), torch.arange(300) % 6  # none of 6
    expected = sklearn_confusion_matrix(labels, logits.argmax(1), labels=range(7))
    assert confusion_matrix(logits, labels).tolist() == expected.tolist()


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


@pytest.mark.parametrize("n", [2, 600, 1100])
@pytest.mark.parametrize("value", [0.0, 1.0, 3e4])
def test_collapse_is_the_worst_uniformity(n, value):
    collapsed = torch.full((n, 3), value)
    assert uniformity(collapsed.double()).item() == pytest.approx(0.0, abs=1e-14)
    assert uniformity(collapsed).item() == pytest.approx(0.0, abs=1e-6)
    assert uniformity(collapsed.half()).item() == pytest.approx(0.0, abs=1e-6)


def test_uniformity_of_some_embeddings_that_are_zero():
    embeddings, _ = embeddings_and_labels(20, 3)
    embeddings[[2, 5, 19]] = 0
    assert uniformity(embeddings).item() == pytest.approx(reference.uniformity(embeddings, 2.0), rel=1e-9)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("scale", [1.0, 2000.0])
def test_half_precision_embeddings_have_the_metrics_of_the_same_in_single_precision(dtype, scale):
    embeddings, labels = embeddings_and_labels(80, 3, torch.float32)
    embeddings = (scale * embeddings).to(dtype)
    if dtype == torch.float16 and scale > 1:
        assert not bool(embeddings.norm(dim=1).square().isfinite().all())
    query, query_labels = embeddings_and_labels(50, 3, torch.float32)
    for metric in (alignment, lambda u, y: uniformity(u), class_mean_cosine, lambda u, y: class_variances(u, y)[0]):
        assert metric(embeddings, labels).item() == pytest.approx(metric(embeddings.float(), labels).item(), rel=1e-6)
    found = knn_accuracy(embeddings, labels, query.to(dtype), query_labels)
    assert found == knn_accuracy(embeddings.float(), labels, query.to(dtype).float(), query_labels)


def test_autocast_changes_no_metric():
    embeddings, labels = embeddings_and_labels(60, 3, torch.float32)
    for metric in (
        lambda: uniformity(embeddings),
        lambda: alignment(embeddings, labels),
        lambda: knn_accuracy(embeddings, labels, embeddings.flip(1), labels),
        lambda: class_mean_cosine(embeddings, labels),
        lambda: calibration_error(embeddings, labels),
    ):
        expected = metric()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(metric(), expected)


def test_alignment_is_differentiable():
    embeddings, labels = embeddings_and_labels(12, 3)
    assert torch.autograd.gradcheck(lambda u: alignment(u, labels), embeddings.requires_grad_())


@pytest.mark.parametrize("block", [5, 1024])
def test_uniformity_is_differentiable(block, monkeypatch):
    monkeypatch.setattr(mmlib.metrics, "BLOCK_ROWS", block)
    embeddings, _ = embeddings_and_labels(12, 3)
    assert torch.autograd.gradcheck(lambda u: uniformity(u, 0.7), embeddings.requires_grad_())


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
def test_gradients_arrive_in_the_type_of_the_embeddings(dtype):
    embeddings, labels = embeddings_and_labels(12, 3, torch.float32)
    embeddings = embeddings.to(dtype)
    exact = embeddings.double().requires_grad_()
    for u in (embeddings.requires_grad_(), exact):
        (alignment(u, labels) + uniformity(u)).backward()
    assert embeddings.grad.dtype == dtype
    torch.testing.assert_close(embeddings.grad, exact.grad.to(dtype), rtol=1e-2 if dtype in HALVES else 1e-5, atol=1e-4)


@pytest.mark.parametrize("k", [1, 5])
def test_accuracy_is_that_of_torchmetrics(k):
    logits, labels = torch.randn(200, 8, generator=torch.Generator().manual_seed(0)), torch.arange(200) % 8
    expected = multiclass_accuracy(logits, labels, num_classes=8, average="micro", top_k=k)
    assert accuracy(logits, labels, k) == pytest.approx(100 * float(expected), rel=1e-6)


def test_one_class_and_twenty_neighbours_count_by_default():
    logits, labels = torch.randn(200, 8, generator=torch.Generator().manual_seed(0)), torch.arange(200) % 8
    assert accuracy(logits, labels) == accuracy(logits, labels, 1) < accuracy(logits, labels, 2)
    train, query = embeddings_and_labels(300, 5), embeddings_and_labels(150, 5)
    found = [knn_accuracy(*train, *query, k=k) for k in (19, 20, 21)]
    assert knn_accuracy(*train, *query) == found[1]
    assert found[0] != found[1] != found[2]


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
    count, confidence, correct = reliability_bins(logits, labels, bins)
    top, prediction = logits.softmax(1).max(1)
    accuracies, confidences = calibration_curve(prediction == labels, top, n_bins=bins)
    held = count > 0
    np.testing.assert_allclose(correct[held] / count[held], accuracies)
    np.testing.assert_allclose(confidence[held] / count[held], confidences)
    assert count.sum() == 400


def test_the_first_bin_holds_the_least_confident_and_the_last_the_certain():
    count, confidence, correct = reliability_bins(torch.tensor([[0.0] * 20, [99.0] + [0.0] * 19]), torch.tensor([0, 1]))
    assert count.tolist() == [1.0] + [0.0] * 13 + [1.0]
    assert confidence[[0, -1]].tolist() == pytest.approx([0.05, 1.0])
    assert correct.tolist() == [1.0] + [0.0] * 14


def test_calibration_of_a_certain_prediction():
    logits = torch.tensor([[100.0, 0.0]] * 4)
    assert calibration_error(logits, torch.tensor([0, 0, 0, 1])) == pytest.approx(25.0)


@pytest.mark.parametrize(("k", "dtype"), [(1, torch.float64), (15, torch.float64), (15, torch.float32)])
def test_knn_accuracy_is_that_of_scikit_learn(k, dtype):
    """Of two classes and an odd k: no ties. More rows than a block."""
    train, query = embeddings_and_labels(300, 2, dtype), embeddings_and_labels(1100, 2, dtype)
    expected = KNeighborsClassifier(k, metric="cosine").fit(*train).score(*query)
    assert knn_accuracy(*train, *query, k=k).item() == pytest.approx(100 * expected, abs=1e-4)


@pytest.mark.parametrize("blocks", [(1024, 8192), (7, 11), (64, 2)])
@pytest.mark.parametrize(("k", "size"), [(20, 300), (4, 300), (20, 12)])
def test_knn_ties_go_to_the_nearest(k, size, blocks, monkeypatch):
    monkeypatch.setattr(mmlib.metrics, "BLOCK_ROWS", blocks[0])
    monkeypatch.setattr(mmlib.metrics, "BLOCK_COLUMNS", blocks[1])
    train, query = embeddings_and_labels(size, 9), embeddings_and_labels(150, 9)
    query[0][3] = 0  # as far from all
    expected = reference.knn_accuracy(*train, *query, k)
    assert knn_accuracy(*train, *query, k=k).item() == pytest.approx(100 * expected, abs=1e-4)


def test_knn_holds_no_more_similarities_than_a_block(monkeypatch):
    """No operation has a result above the stated bound: similarities of a block, or k neighbours of all."""
    monkeypatch.setattr(mmlib.metrics, "BLOCK_ROWS", 32)
    monkeypatch.setattr(mmlib.metrics, "BLOCK_COLUMNS", 64)

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **kwargs or {})
            views = function.is_view or function.overloadpacket in (torch.ops.aten.split, torch.ops.aten._to_copy)
            for x in tree_leaves(result):
                if isinstance(x, torch.Tensor) and not views:
                    self.elements = max(self.elements, x.numel())
            return result

    train, query = embeddings_and_labels(1000, 3, torch.bfloat16), embeddings_and_labels(500, 3, torch.bfloat16)
    with Largest() as largest:
        knn_accuracy(*train, *query, k=4)
    assert largest.elements <= max(32 * 64, 500 * 4)


@pytest.mark.parametrize("dtype", HALVES)
def test_knn_tells_neighbours_apart_that_half_precision_would_not(dtype, monkeypatch):
    monkeypatch.setattr(mmlib.metrics, "BLOCK_COLUMNS", 1)
    train, query = torch.tensor([[1.0, 2**-7], [1.0, 0.0]], dtype=dtype), torch.tensor([[1.0, 0.0]], dtype=dtype)
    assert knn_accuracy(train, torch.tensor([0, 1]), query, torch.tensor([1]), k=1) == 100


def test_knn_takes_an_embedding_that_is_zero_for_nobodys_neighbour():
    train = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    labels, query = torch.tensor([1, 0, 0]), torch.tensor([[0.0, 3.0], [0.0, -3.0], [0.0, 0.0]])
    assert knn_accuracy(train, labels, query[:2], torch.tensor([0, 1]), k=1) == 100
    assert knn_accuracy(train, labels, query, torch.tensor([0, 0, 0]), k=3) == 100


@pytest.mark.parametrize("dtype", INTEGER_TYPES)
def test_labels_are_integers_of_any_type(dtype):
    embeddings, labels = embeddings_and_labels(300, 17, torch.float64)
    logits = torch.randn(300, 17, generator=torch.Generator().manual_seed(0)) + 2 * F.one_hot(labels, 17)
    for metric in (
        alignment,
        class_mean_cosine,
        lambda u, y: class_variances(u, y)[1],
        lambda u, y: class_means(u, y)[0],
    ):
        assert torch.equal(metric(embeddings, labels.to(dtype)), metric(embeddings, labels))
    for metric in (accuracy, reliability_bins, calibration_error, confusion_matrix):
        assert torch.equal(metric(logits, labels.to(dtype)), metric(logits, labels))
    found = knn_accuracy(embeddings, labels.to(dtype), embeddings.flip(1), labels.to(dtype))
    assert found == knn_accuracy(embeddings, labels, embeddings.flip(1), labels)
    assert confusion_matrix(logits, labels.to(dtype)).tolist() == reference.confusion_matrix(logits, labels)


@pytest.mark.parametrize(
    "metric", [alignment, accuracy, reliability_bins, confusion_matrix, class_means, class_variances, class_mean_cosine]
)
@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (torch.zeros(4, 1, dtype=torch.long), ValueError, r"labels must have shape \(4,\), got \(4, 1\)"),
        (torch.zeros(3, dtype=torch.long), ValueError, r"labels must have shape \(4,\), got \(3,\)"),
        (torch.zeros(4), TypeError, "labels must be an integer tensor, got torch.float32"),
        (torch.zeros(4, dtype=torch.bool), TypeError, "labels must be an integer tensor, got torch.bool"),
    ],
)
def test_labels_of_another_kind_are_refused(metric, labels, error, message, unchecked):
    with pytest.raises(error, match=message):
        metric(torch.randn(4, 3), labels)


@pytest.mark.parametrize("metric", [accuracy, reliability_bins, calibration_error, confusion_matrix])
@pytest.mark.parametrize(("label", "got"), [(7, "7"), (3, "3"), (-1, "-1"), (-100, "-100")])
def test_classes_that_the_logits_do_not_have_are_refused(metric, label, got):
    with pytest.raises(ValueError, match=f"labels must be from 0 to 2 for 3 classes, got {got}$"):
        metric(torch.eye(3), torch.tensor([0, label, 1]))


@pytest.mark.parametrize("metric", [accuracy, reliability_bins, calibration_error, confusion_matrix])
@pytest.mark.parametrize("dtype", [torch.float64, *HALVES])
def test_logits_that_are_nan_are_refused(metric, dtype):
    logits = torch.eye(4, dtype=dtype)
    logits[2, 0] = -torch.inf  # a class that cannot be is no error
    metric(logits, torch.arange(4))
    logits[2, 1] = torch.nan
    with pytest.raises(ValueError, match=r"^logits must be a finite number, got nan$"):
        metric(logits, torch.arange(4))


OF_EMBEDDINGS = {
    "alignment": alignment,
    "uniformity": lambda u, y: uniformity(u),
    "class_means": class_means,
    "class_variances": class_variances,
    "class_mean_cosine": class_mean_cosine,
    "knn_accuracy": lambda u, y: knn_accuracy(torch.eye(4), y, u, y),
    "train_knn_accuracy": lambda u, y: knn_accuracy(u, y, torch.eye(4), y),
}


@pytest.mark.parametrize("name", OF_EMBEDDINGS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_embeddings_that_are_not_finite_are_refused(name, value):
    embeddings = torch.eye(4).index_fill(0, torch.tensor([2]), value)
    argument = "train_embeddings" if name.startswith("train") else "embeddings"
    with pytest.raises(ValueError, match=f"^{argument} must be a finite number, got {value}$"):
        OF_EMBEDDINGS[name](embeddings, torch.tensor([0, 0, 1, 1]))


@pytest.mark.parametrize("label", [-1, 2**20, 10**9, 2**62])
def test_numbers_that_are_no_class_indices_have_no_means(label):
    """Rather than a mean for each of a thousand million classes."""
    with pytest.raises(
        ValueError, match=f"^labels must be from 0 to 1048575 for 1048576 classes at most, got {label}$"
    ):
        class_means(torch.eye(3), torch.tensor([0, label, 1]))


@pytest.mark.parametrize("metric", [alignment, class_variances, class_mean_cosine])
def test_labels_may_be_any_ids(metric):
    embeddings = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([2, 0, 1, 0, 1, 2])
    ids = torch.tensor([7, 10**9, 2**62])
    torch.testing.assert_close(metric(embeddings, ids[labels]), metric(embeddings, labels), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"^labels must be a finite number >= 0, got -1$"):
        metric(embeddings, labels - 1)


@pytest.mark.parametrize("metric", [accuracy, reliability_bins, calibration_error, confusion_matrix])
@pytest.mark.parametrize("shape", [(0, 3), (4,), (4, 3, 2)])
def test_logits_of_another_shape_and_none_are_refused(metric, shape, unchecked):
    at_least = ", each at least 1" if 0 in shape else ""
    with pytest.raises(ValueError, match=rf"^logits must have shape \(n, c\){at_least}, got \("):
        metric(torch.zeros(shape), torch.zeros(shape[0], dtype=torch.long))


@pytest.mark.parametrize(
    "metric", [alignment, lambda u, y: uniformity(u), class_means, class_variances, class_mean_cosine]
)
@pytest.mark.parametrize("shape", [(0, 3), (4,), (4, 3, 2)])
def test_embeddings_of_another_shape_and_none_are_refused(metric, shape, unchecked):
    at_least = ", each at least 1" if 0 in shape else ""
    with pytest.raises(ValueError, match=rf"^embeddings must have shape \(n, d\){at_least}, got \("):
        metric(torch.zeros(shape), torch.zeros(shape[0], dtype=torch.long))


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (lambda u, y: accuracy(u, y, k=0), "k must be an integer >= 1, got 0"),
        (lambda u, y: knn_accuracy(u, y, u, y, k=0), "k must be an integer >= 1, got 0"),
        (lambda u, y: reliability_bins(u, y, bins=0), "bins must be an integer >= 1, got 0"),
        (lambda u, y: uniformity(u, t=-1.0), "t must be a finite number >= 0, got -1.0"),
    ],
)
def test_numbers_that_make_no_metric_are_refused(metric, words):
    with pytest.raises(ValueError, match=words):
        metric(torch.eye(3), torch.arange(3))


def test_what_is_no_tensor_is_named(unchecked):
    with pytest.raises(TypeError, match="labels must be a tensor, got list"):
        accuracy(torch.eye(3), [0, 1, 2])
    with pytest.raises(TypeError, match="logits must be a tensor, got ndarray"):
        accuracy(np.eye(3), torch.arange(3))
    with pytest.raises(TypeError, match=r"train_labels must be an integer tensor, got torch\.float32"):
        knn_accuracy(torch.eye(3), torch.ones(3), torch.eye(3), torch.arange(3))


def test_neighbours_of_none_and_among_none_are_refused(unchecked):
    some, labels = torch.eye(3), torch.arange(3)
    with pytest.raises(ValueError, match=r"train_embeddings must have shape \(k, d\), each at least 1, got \(0, 3\)"):
        knn_accuracy(some[:0], labels[:0], some, labels)
    with pytest.raises(ValueError, match=r"^embeddings must have shape \(n, 3\), each at least 1, got \(0, 3\)"):
        knn_accuracy(some, labels, some[:0], labels[:0])
    with pytest.raises(ValueError, match=r"^embeddings must have shape \(n, 3\), got \(3, 2\)"):
        knn_accuracy(some, labels, some[:, :2], labels)


@pytest.mark.parametrize("scale", [1e-20, 1e-12, 1e12, 1e20, 1e36])
def test_normalised_embeddings_have_no_scale(scale):
    """A norm is beyond float32 from 1e19 on, and `F.normalize` takes one below 1e-12 for zero."""
    embeddings, labels = embeddings_and_labels(80, 3, torch.float32)
    for metric in (
        uniformity,
        lambda u: alignment(u, labels),
        lambda u: class_variances(u, labels)[0],
        lambda u: knn_accuracy(u, labels, u.flip(1), labels),
    ):
        assert metric(embeddings * scale).item() == pytest.approx(metric(embeddings).item(), rel=1e-5)


def test_embeddings_of_all_sizes_are_normalised_together():
    embeddings, labels = embeddings_and_labels(80, 3, torch.float32)
    scales = torch.tensor([1e-20, 1.0, 1e20, 1e36])[torch.arange(80) % 4].unsqueeze(1)
    assert alignment(embeddings * scales, labels).item() == pytest.approx(
        alignment(embeddings, labels).item(), rel=1e-5
    )


def test_class_means_of_one_example_each_are_a_simplex():
    assert class_mean_cosine(torch.eye(5), torch.arange(5)).item() == pytest.approx(-1 / 4)


def test_embeddings_of_a_usual_size_are_normalised_as_by_torch_to_the_last_bit():
    embeddings, _ = embeddings_and_labels(200, 3, torch.float32)
    for scale in (1e-9, 1.0, 1e9):
        expected = F.normalize(embeddings * scale, dim=1)
        assert torch.equal(mmlib.metrics._normalise(embeddings * scale), expected)


@pytest.mark.parametrize("classes", [1, 4, 30])
def test_class_variances_are_means_of_squared_distances(classes):
    embeddings, labels = embeddings_and_labels(40, classes)
    found = [x.item() for x in class_variances(embeddings, labels)]
    assert found == pytest.approx(reference.class_variances(embeddings, labels), rel=1e-9, abs=1e-15)


def test_accuracy_counts_all_classes_where_there_are_fewer_than_k():
    assert accuracy(torch.eye(3), torch.tensor([1, 1, 1]), k=5) == 100


def test_metrics_are_tensors_without_dimensions():
    embeddings, labels = embeddings_and_labels(40, 4)
    for value in (
        alignment(embeddings, labels),
        uniformity(embeddings),
        accuracy(embeddings, labels),
        calibration_error(embeddings, labels),
        *class_variances(embeddings, labels),
        knn_accuracy(embeddings, labels, embeddings, labels),
        class_mean_cosine(embeddings, labels),
    ):
        assert value.shape == ()
        assert value.dtype == torch.float64


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


def test_embeddings_and_labels_that_do_not_fit_are_named(unchecked):
    labels = torch.tensor([0, 1, 0, 1])
    for embeddings in (torch.ones(4), torch.ones(4, 2, 2)):
        for metric in (lambda u: alignment(u, labels), uniformity):
            with pytest.raises(ValueError, match=r"embeddings must have shape \(n, d\), got \(4,"):
                metric(embeddings)
