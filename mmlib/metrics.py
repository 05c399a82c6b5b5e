"""Metrics of embeddings and of predictions: pure functions of tensors.

Each returns tensors on the device of its input, computed in float32 or wider whatever the input's type is, also under
autocast. Labels are class indices of any integer type, shape (n,), on any device; those beside logits (n, c) must be
below c. A metric of no examples is refused, for it has no value, and so are, on the CPU, logits that are NaN or
infinity and embeddings that are not finite.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib._backend import without_autocast
from mmlib._checks import check_index_range, check_int, check_range, check_tensor, check_values
from mmlib._typing import Float, Int, Integer
from mmlib.mixing import accumulation_dtype

# Similarities computed together: 1024 x 8192 of them take 32 MiB in float32.
BLOCK_ROWS, BLOCK_COLUMNS = 1024, 8192
# Embeddings whose largest entry is between them have a norm that float32 holds and that is not taken for zero.
SMALLEST_ENTRY, LARGEST_ENTRY = 1e-12, 1e15
# Every class up to the highest label has a mean: a larger label is no class index, and would take all memory.
MOST_CLASSES = 2**20


def alignment(embeddings: Float[Tensor, "n d"], labels: Integer[Tensor, " n"]) -> Float[Tensor, ""]:
    """Compute the mean squared distance between normalised embeddings of the same class; lower is better.

    The mean is over all distinct pairs of the same class, without a loop over pairs: a class with k embeddings has
    Σ_{i<j} ‖u_i - u_j‖² = k Σ_i ‖u_i - ū‖². Differentiable.

    Args:
        embeddings: shape (n, d).
        labels: class indices, shape (n,).

    Returns:
        A tensor without dimensions; NaN where no class has two embeddings.

    Source: Wang & Isola (ICML 2020), with pairs of the same class as positives.

    >>> alignment(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0])).item()
    2.0
    """
    _check_embeddings("embeddings", embeddings)
    labels = _numbered(labels, embeddings)
    u = _normalise(_double(embeddings))
    means, sizes = class_means(u, labels)
    scatter = u.new_zeros(len(sizes)).index_add_(0, labels, (u - means[labels]).square().sum(1))
    return (sizes * scatter).sum() / (sizes * (sizes - 1) / 2).sum()


def uniformity(embeddings: Float[Tensor, "n d"], t: float = 2.0) -> Float[Tensor, ""]:
    """Compute the logarithm of the mean Gaussian potential of pairs of normalised embeddings; lower is better.

    The potential of a pair is exp(-t ‖u - v‖²), the mean is over all distinct pairs. Collapsed embeddings, all equal
    or all zero, have the highest uniformity, 0. Differentiable. Pairs are visited in blocks of 1024 rows: memory
    grows with n, but with n² where a gradient is asked for.

    Args:
        embeddings: shape (n, d).
        t: the potential's inverse width, above 0.

    Returns:
        A tensor without dimensions; NaN for fewer than two embeddings.

    Source: Wang & Isola (ICML 2020), equation 5.

    >>> round(uniformity(torch.tensor([[1.0, 0.0], [0.0, 2.0]])).item(), 4)
    -4.0
    """
    check_range(t=t)
    _check_embeddings("embeddings", embeddings)
    u = _normalise(embeddings)
    squares = u.square().sum(dim=1)  # 1, or 0 for an embedding that is zero
    total = _double(u.new_zeros(()))
    with without_autocast(u.device.type):
        for start in range(0, len(u), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            distances = squares[rows, None] + squares[start:] - 2 * (u[rows] @ u[start:].T)
            potentials = distances.clamp(min=0).mul(-t).exp()
            total = total + potentials.triu(diagonal=1).sum(dtype=total.dtype)  # pairs with i < j
    return (total / (len(u) * (len(u) - 1) / 2)).log()


def accuracy(logits: Float[Tensor, "n c"], labels: Integer[Tensor, " n"], k: int = 1) -> Float[Tensor, ""]:
    """Compute the percentage of examples whose class is among the k most probable.

    Args:
        logits: shape (n, c).
        labels: class indices, shape (n,).
        k: the number of classes that count; all c where there are fewer.

    >>> round(accuracy(torch.eye(3), torch.tensor([0, 1, 1])).item(), 2)
    66.67
    """
    check_int(1, k=k)
    labels = _classes(labels, logits)
    top = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return 100 * _double((top == labels.unsqueeze(1)).any(dim=1)).mean()


def reliability_bins(
    logits: Float[Tensor, "n c"], labels: Integer[Tensor, " n"], bins: int = 15
) -> Float[Tensor, "3 bins"]:
    """Sort predictions by their confidence into bins of equal width: the numbers behind a reliability diagram.

    A bin includes its upper end, and the first also 0. The bins of several parts of a data set can be added.

    Args:
        logits: shape (n, c).
        labels: class indices, shape (n,).
        bins: the number of bins.

    Returns:
        Three rows with each bin's number of predictions, the sum of their confidences, and how many are correct.

    >>> reliability_bins(torch.tensor([[9.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]), bins=2).round(decimals=2)
    tensor([[1.0000, 1.0000],
            [0.5000, 1.0000],
            [0.0000, 1.0000]], dtype=torch.float64)
    """
    check_int(1, bins=bins)
    labels = _classes(labels, logits)
    confidence, prediction = _double(logits).softmax(dim=1).max(dim=1)
    values = torch.stack([torch.ones_like(confidence), confidence, (prediction == labels).to(confidence.dtype)])
    bin_of = (confidence * bins).ceil().long().clamp(1, bins) - 1
    return values.new_zeros(3, bins).index_add_(1, bin_of, values)


def calibration_error(logits: Float[Tensor, "n c"], labels: Integer[Tensor, " n"], bins: int = 15) -> Float[Tensor, ""]:
    """Compute the expected calibration error in percent: the mean gap between confidence and accuracy of bins.

    Args:
        logits, labels, bins: as in `reliability_bins`.

    Source: Guo et al. (ICML 2017), equation 3.

    >>> calibration_error(torch.tensor([[100.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1])).item()
    25.0
    """
    count, confidence, correct = reliability_bins(logits, labels, bins)
    return 100 * (confidence - correct).abs().sum() / count.sum()


def confusion_matrix(logits: Float[Tensor, "n c"], labels: Integer[Tensor, " n"]) -> Int[Tensor, "c c"]:
    """Count predictions: entry [i, j] is the number of examples of class i that are taken for class j.

    >>> confusion_matrix(torch.eye(3)[[0, 1, 1]], torch.tensor([0, 1, 2]))
    tensor([[1, 0, 0],
            [0, 1, 0],
            [0, 1, 0]])
    """
    labels, c = _classes(labels, logits), logits.shape[1]
    return torch.bincount(labels * c + logits.argmax(dim=1), minlength=c * c).view(c, c)


def class_means(embeddings: Float[Tensor, "n d"], labels: Integer[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """Compute the mean of every class 0..c-1, where c - 1 is the highest label, below 2^20.

    Returns:
        The means, shape (c, d), zero for a class without embeddings, and the classes' sizes, shape (c,).

    >>> class_means(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1, 1]))
    (tensor([[0.0000, 0.0000],
            [0.5000, 0.5000]]), tensor([0., 2.]))
    """
    _check_embeddings("embeddings", embeddings)
    labels = _class_indices(labels, embeddings)
    check_index_range("labels", labels, MOST_CLASSES, "classes at most")
    embeddings = embeddings.to(accumulation_dtype(embeddings.dtype))
    sizes = torch.bincount(labels).to(embeddings.dtype)
    sums = embeddings.new_zeros(len(sizes), embeddings.shape[1]).index_add_(0, labels, embeddings)
    return sums / sizes.clamp(min=1).unsqueeze(1), sizes


def class_variances(embeddings: Float[Tensor, "n d"], labels: Integer[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """Compute the variance within classes and the variance between their means; their sum is the total variance.

    Embeddings are normalised first; a class counts by its size.

    Returns:
        The variance within classes and the variance between them, tensors without dimensions.

    >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> [x.item() for x in class_variances(embeddings, torch.tensor([0, 0, 1, 1]))]
    [0.0, 0.5]
    """
    _check_embeddings("embeddings", embeddings)
    labels = _numbered(labels, embeddings)
    u = _normalise(_double(embeddings))
    means, _ = class_means(u, labels)
    within = (u - means[labels]).square().sum(1).mean()
    between = (means[labels] - u.mean(0)).square().sum(1).mean()
    return within, between


@torch.no_grad()
def knn_accuracy(
    train_embeddings: Float[Tensor, "k d"],
    train_labels: Integer[Tensor, " k"],
    embeddings: Float[Tensor, "n d"],
    labels: Integer[Tensor, " n"],
    k: int = 20,
) -> Float[Tensor, ""]:
    """Compute the percentage of embeddings whose class is that of most of their k nearest training embeddings.

    The nearest are those of the highest cosine. Of classes with equally many, the one with the nearest embedding wins.

    Beside the arguments, memory holds 1024 x 8192 similarities, the embeddings that they compare, and k neighbours
    for each of the n embeddings. All is computed on the device of `embeddings`, where training embeddings on another
    device come block by block.

    Args:
        train_embeddings: the neighbours to choose from.
        train_labels: their class indices.
        embeddings: the embeddings to classify, shape (n, d).
        labels: their class indices, shape (n,).
        k: the number of neighbours; all training embeddings where there are fewer.

    >>> train = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> query = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    >>> knn_accuracy(train, torch.tensor([0, 1]), query, torch.tensor([0, 0]), k=1).item()
    50.0
    """
    check_int(1, k=k)
    _check_embeddings("train_embeddings", train_embeddings, ("k", "d"))
    _check_embeddings("embeddings", embeddings, ("n", train_embeddings.shape[1]))
    train_labels = _class_indices(train_labels, train_embeddings, "train_labels")
    labels = _class_indices(labels, embeddings)
    neighbours = _nearest_labels(train_embeddings, train_labels, embeddings, k)
    correct = []
    for nearest, target in zip(neighbours.split(BLOCK_ROWS), labels.split(BLOCK_ROWS)):
        votes = (nearest.unsqueeze(2) == nearest.unsqueeze(1)).sum(dim=2)
        # argmax takes the first of equal ones, and neighbours come by distance.
        prediction = nearest.gather(1, votes.argmax(dim=1, keepdim=True)).squeeze(1)
        correct.append(prediction == target)
    return 100 * _double(torch.cat(correct)).mean()


def _nearest_labels(train_embeddings: Tensor, train_labels: Tensor, embeddings: Tensor, k: int) -> Tensor:
    """Return the labels of the k most similar training embeddings, the most similar first, (n, k)."""
    train_labels = train_labels.to(embeddings.device)
    n, k = len(embeddings), min(k, len(train_embeddings))
    similarity = embeddings.new_full((n, k), -torch.inf, dtype=accumulation_dtype(embeddings.dtype))
    nearest = train_labels.new_zeros(n, k)
    for train, classes in zip(train_embeddings.split(BLOCK_COLUMNS), train_labels.split(BLOCK_COLUMNS)):
        train = _normalise(train.to(embeddings.device, similarity.dtype))
        for start in range(0, n, BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            with without_autocast(embeddings.device.type):
                found, index = (_normalise(embeddings[rows]) @ train.T).topk(min(k, len(train)), dim=1)
            # The best of those found before and now.
            similarity[rows], order = torch.cat([similarity[rows], found], dim=1).topk(k, dim=1)
            nearest[rows] = torch.cat([nearest[rows], classes[index]], dim=1).gather(1, order)
    return nearest


def class_mean_cosine(embeddings: Float[Tensor, "n d"], labels: Integer[Tensor, " n"]) -> Float[Tensor, ""]:
    """Compute the mean cosine over all pairs of class means, seen from the mean of all embeddings.

    Means as far apart as c vectors can be, a regular simplex (neural collapse), give -1 / (c - 1).

    Returns:
        A tensor without dimensions; NaN for a single class.

    Source: Papyan, Han & Donoho (PNAS 2020), equiangularity of the class means.

    >>> round(class_mean_cosine(torch.eye(5), torch.arange(5)).item(), 4)
    -0.25
    """
    _check_embeddings("embeddings", embeddings)
    embeddings = _double(embeddings)
    means, _ = class_means(embeddings, _numbered(labels, embeddings))
    u = F.normalize(means - embeddings.mean(0), dim=1)
    return (u.sum(0).square().sum() - u.square().sum()) / (len(u) * (len(u) - 1))


def _classes(labels: Tensor, logits: Tensor) -> Tensor:
    """Return the labels of logits, (n, c), as int64 on their device; each must be a class that they have."""
    check_tensor("logits", logits, ("n", "c"))
    check_values("logits", logits.detach().amax(), -math.inf)  # -inf is a class that cannot be
    labels = _class_indices(labels, logits)
    check_index_range("labels", labels, logits.shape[1], "classes")
    return labels


def _check_embeddings(name: str, embeddings: Tensor, shape: tuple[int | str, ...] = ("n", "d")) -> None:
    """Refuse any embeddings but those of examples, (n, d), and, where they can be read, any that are not finite."""
    check_tensor(name, embeddings, shape)
    check_values(name, embeddings, -math.inf)


def _class_indices(labels: Tensor, values: Tensor, name: str = "labels") -> Tensor:
    """Return the labels as int64 on the device of `values`, one for each of its rows."""
    check_tensor(name, labels, (len(values),), "integer")
    return labels.to(values.device, torch.long)


def _numbered(labels: Tensor, embeddings: Tensor) -> Tensor:
    """Return labels, such as ids of a million people, numbered anew from 0, without gaps."""
    classes, numbers = _class_indices(labels, embeddings).unique(return_inverse=True)
    check_range(labels=classes[0].item())
    return numbers


def _double(values: Tensor) -> Tensor:
    """Convert to double precision, or single precision on Apple's GPUs, which have no double."""
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def _normalise(embeddings: Tensor) -> Tensor:
    """Divide embeddings by their norm, in float32 or wider; an embedding that is zero stays zero.

    The square of a very large entry would overflow, and `F.normalize` takes a very small norm for zero: embeddings
    with such entries are divided by their largest one first.
    """
    embeddings = embeddings.to(accumulation_dtype(embeddings.dtype))
    largest = embeddings.detach().abs().amax(dim=1, keepdim=True)
    extreme = (largest > LARGEST_ENTRY) | ((largest > 0) & (largest < SMALLEST_ENTRY))
    return F.normalize(embeddings / largest.where(extreme, 1.0), dim=1)
