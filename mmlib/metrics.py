"""Metrics of embeddings and of predictions: pure functions of tensors."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib._typing import Float, Int


def alignment(embeddings: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> float:
    """Mean squared distance over all distinct pairs of the same class, embeddings normalised first; lower is better.

    Needs no loop over pairs: a class of k embeddings has Σ_{i<j} ‖u_i - u_j‖² = k Σ_i ‖u_i - ū‖².
    NaN where no class has two embeddings.

    Source: Wang & Isola (ICML 2020), with pairs of the same class as positives.

    >>> alignment(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0]))
    2.0
    """
    u = F.normalize(embeddings.double(), dim=1)
    means, sizes = class_means(u, labels)
    scatter = u.new_zeros(len(sizes)).index_add_(0, labels, (u - means[labels]).square().sum(1))
    return float((sizes * scatter).sum() / (sizes * (sizes - 1) / 2).sum())


def class_means(embeddings: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """The mean of every class 0..c-1, (c, d), zero where it has no embedding, and how many it has, (c,).

    >>> class_means(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1, 1]))
    (tensor([[0.0000, 0.0000],
            [0.5000, 0.5000]]), tensor([0., 2.]))
    """
    sizes = torch.bincount(labels).to(embeddings.dtype)
    sums = embeddings.new_zeros(len(sizes), embeddings.shape[1]).index_add_(0, labels, embeddings)
    return sums / sizes.clamp(min=1).unsqueeze(1), sizes


def uniformity(embeddings: Float[Tensor, "n d"], t: float = 2.0) -> float:
    """Logarithm of the mean Gaussian potential exp(-t ‖u - v‖²) over all distinct pairs; lower is better.

    Embeddings are normalised first. Pairs are visited in blocks of rows, so memory grows with n, not n².

    Source: Wang & Isola (ICML 2020), equation 5.

    >>> round(uniformity(torch.tensor([[1.0, 0.0], [0.0, 2.0]])), 4)
    -4.0
    """
    u = F.normalize(embeddings, dim=1)
    n, rows = len(u), 512
    total = u.new_zeros((), dtype=torch.double)
    for start in range(0, n, rows):
        block = u[start : start + rows]
        # ‖u - v‖² = 2 - 2 u·v on the sphere; of the pairs, those with the first index below the second.
        potential = (block @ u[start:].T).mul_(2 * t).sub_(2 * t).exp_().triu_(diagonal=1)
        total += potential.sum(dtype=torch.double)
    return float((total / (n * (n - 1) / 2)).log())


def accuracy(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"], k: int = 1) -> float:
    """Share of examples whose class is among the k most probable, in percent."""
    return float((logits.topk(k, dim=1).indices == labels.unsqueeze(1)).any(dim=1).double().mean() * 100)


def reliability(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"], bins: int = 15) -> Float[Tensor, "3 bins"]:
    """Predictions by equal bins of their confidence: how many, the sum of their confidences, how many are right.

    Sums of several runs add up. A bin holds its upper end, the first also zero.

    >>> reliability(torch.tensor([[9.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]), bins=2).round(decimals=2)
    tensor([[1.0000, 1.0000],
            [0.5000, 1.0000],
            [0.0000, 1.0000]], dtype=torch.float64)
    """
    confidence, prediction = logits.double().softmax(dim=1).max(dim=1)
    values = torch.stack([torch.ones_like(confidence), confidence, (prediction == labels).double()])
    bin_of = (confidence * bins).ceil().long().clamp(1, bins) - 1
    return values.new_zeros(3, bins).index_add_(1, bin_of, values)


def calibration_error(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"], bins: int = 15) -> float:
    """Expected calibration error: mean gap between confidence and accuracy over equal bins of confidence, in percent.

    Source: Guo et al. (ICML 2017), equation 3.
    """
    count, confidence, right = reliability(logits, labels, bins)
    return float((confidence - right).abs().sum() / count.sum() * 100)


def confusion(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Int[Tensor, "c c"]:
    """Entry [i, j] counts the images of class i that are taken for class j."""
    c = logits.shape[1]
    return torch.bincount(labels * c + logits.argmax(dim=1), minlength=c * c).view(c, c)


def class_variances(embeddings: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> tuple[float, float]:
    """Variance within classes and between their means, embeddings normalised first; together their total variance.

    >>> class_variances(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0, 1, 1]))
    (0.0, 0.5)
    """
    u = F.normalize(embeddings.double(), dim=1)
    means, _ = class_means(u, labels)
    within = (u - means[labels]).square().sum(1).mean()
    between = (means[labels] - u.mean(0)).square().sum(1).mean()
    return float(within), float(between)


def knn_accuracy(
    train_embeddings: Float[Tensor, "k d"],
    train_labels: Int[Tensor, " k"],
    embeddings: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    k: int = 20,
) -> float:
    """Share of embeddings whose class is that of most of their k nearest training embeddings, in percent.

    Nearest by cosine; of classes with equally many the one with the nearest embedding wins; k is 20, or all where
    there are fewer (our choices). Similarities are computed in blocks of rows.

    >>> train = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> knn_accuracy(train, torch.tensor([0, 1]), torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([0, 0]), k=1)
    50.0
    """
    dtype = torch.promote_types(embeddings.dtype, torch.float32)
    known, asked = (F.normalize(u.to(dtype), dim=1) for u in (train_embeddings, embeddings))
    right = 0
    for block, truth in zip(asked.split(512), labels.split(512)):
        nearest = train_labels[(block @ known.T).topk(min(k, len(known)), dim=1).indices]
        votes = (nearest.unsqueeze(2) == nearest.unsqueeze(1)).sum(dim=2)
        # argmax takes the first of equal ones, and neighbours come by distance.
        right += (nearest.gather(1, votes.argmax(dim=1, keepdim=True)).squeeze(1) == truth).sum()
    return 100 * int(right) / len(labels)


def class_mean_cosine(embeddings: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> float:
    """Mean cosine over all pairs of class means, seen from the mean of all embeddings.

    Means as far apart as c vectors can be, a regular simplex (neural collapse), give -1 / (c - 1). NaN for one class.

    Source: Papyan, Han & Donoho (PNAS 2020), equiangularity of the class means.

    >>> round(class_mean_cosine(torch.eye(5), torch.arange(5)), 4)
    -0.25
    """
    u = embeddings.double()
    means, sizes = class_means(u, labels)
    u, c = F.normalize(means[sizes > 0] - u.mean(0), dim=1), int((sizes > 0).sum())
    return float((u.sum(0).square().sum() - u.square().sum()) / (c * c - c))
