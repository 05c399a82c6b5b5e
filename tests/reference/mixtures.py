"""MultiMix and Dense MultiMix as their formulas read: one mixture and one position at a time, on embeddings.

Independent of mmlib on purpose, and slow. A `head` maps an embedding of shape (d,) to logits of shape (c,).
"""

import torch


def mixture(weights, values):
    """Σ_i λ_i v_i for the weights λ of one mixture."""
    total = torch.zeros_like(values[0])
    for weight, value in zip(weights, values):
        total = total + weight * value
    return total


def cross_entropy(logits, target):
    """-Σ_c ỹ_c log softmax(logits)_c for one point."""
    log_normaliser = torch.log(torch.sum(torch.exp(logits)))
    return -torch.sum(target * (logits - log_normaliser))


def gap_attention(features):
    """ReLU(zᵀu) summing to 1 over positions, u the mean of z over positions; uniform where all of it is zero."""
    m, _, r = features.shape
    attention = torch.zeros(m, r, dtype=features.dtype)
    for i in range(m):
        u = sum(features[i, :, j] for j in range(r)) / r
        scores = [torch.clamp(torch.dot(features[i, :, j], u), min=0) for j in range(r)]
        total = sum(scores)
        for j in range(r):
            attention[i, j] = scores[j] / total if total > 0 else 1 / r
    return attention


def multimix(embeddings, head, targets, weights):
    """Mean over k of the cross-entropy of head(Σ_i λ_ki z_i) against Σ_i λ_ki y_i; z (m, d), y (m, c), λ (n, m)."""
    losses = [cross_entropy(head(mixture(row, embeddings)), mixture(row, targets)) for row in weights]
    return sum(losses) / len(losses)


def dense_multimix(features, head, targets, attention, weights):
    """Mean over k and j, with λ_ki a_ij / Σ_i λ_ki a_ij in the place of λ_ki; z (m, d, r), y (m, r, c), a (m, r).

    Where that sum is zero the mixture keeps its own weights λ.
    """
    losses = []
    for row in weights:
        for j in range(features.shape[2]):
            attended = torch.stack([row[i] * attention[i, j] for i in range(len(row))])
            total = attended.sum()
            attended = attended / total if total > 0 else row
            point = head(mixture(attended, features[:, :, j]))
            losses.append(cross_entropy(point, mixture(attended, targets[:, j])))
    return sum(losses) / len(losses)
