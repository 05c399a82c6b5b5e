"""MultiMix and Dense MultiMix as their formulas read: one mixture and one position at a time, on embeddings.

Independent of mmlib on purpose, and slow. A `head` maps an embedding of shape (d,) to logits of shape (c,).
"""

import torch


def mixture(weights, values):
    """Σ_i λ_i v_i for the weights λ of one mixture, over those that are not zero."""
    total = torch.zeros_like(values[0])
    for weight, value in zip(weights, values):
        if weight != 0 or weight.requires_grad:
            total = total + weight * value
    return total


def cross_entropy(logits, target, weight=None, smoothing=0.0):
    """-Σ_c w_c ((1 - ε) ỹ_c + ε / C) log softmax(logits)_c for one point."""
    share = (1 - smoothing) * target + smoothing / len(logits)
    terms = share * (logits - torch.logsumexp(logits, dim=0))
    terms = terms if weight is None else weight * terms
    return -torch.sum(terms[(share != 0).detach()])  # a class that does not count may be impossible


def gap_attention(features, mask=None):
    """ReLU(zᵀu) summing to 1 over positions, u the mean of z over positions; uniform where all of it is zero."""
    m, _, r = features.shape
    attention = torch.zeros(m, r, dtype=features.dtype)
    for i in range(m):
        real = [j for j in range(r) if mask is None or mask[i, j]]
        if not real:
            continue
        u = sum(features[i, :, j] for j in real) / len(real)
        scores = {j: torch.clamp(torch.dot(features[i, :, j], u), min=0) for j in real}
        total = sum(scores.values())
        for j in real:
            attention[i, j] = scores[j] / total if total > 0 else 1 / len(real)
    return attention


def reduced(losses, reduction):
    """The losses of mixtures, None for one without a term, as `reduction` says."""
    counted = [loss for loss in losses if loss is not None]
    if reduction == "none":
        return torch.stack([torch.zeros((), dtype=torch.double) if loss is None else loss for loss in losses])
    total = sum(counted, start=torch.zeros((), dtype=torch.double))
    return total if reduction == "sum" else total / max(len(counted), 1)


def multimix(embeddings, head, targets, weights, kept=None, reduction="mean", **classes):
    """Mean over k of the cross-entropy of head(Σ_i λ_ki z_i) against Σ_i λ_ki y_i; z (m, d), y (m, c), λ (n, m).

    Only the examples `kept` are mixed; each λ_k is divided by its sum over them.
    """
    kept = None if kept is None else kept[:, None]
    ones = torch.ones(len(embeddings), 1, dtype=embeddings.dtype)
    values = embeddings[:, :, None], head, targets[:, None], ones, weights
    return dense_multimix(*values, kept, reduction, **classes)


def dense_multimix(features, head, targets, attention, weights, mask=None, reduction="mean", **classes):
    """Mean over k and j, with λ_ki a_ij / Σ_i λ_ki a_ij in the place of λ_ki; z (m, d, r), y (m, r, c), a (m, r).

    Where that sum is zero the mixture keeps its own weights λ. Positions that are not in the mask take no part.
    """
    losses = []
    for row in weights:
        terms = []
        for j in range(features.shape[2]):
            own = row if mask is None else row * mask[:, j]
            if not own.sum() > 0:
                continue
            attended = torch.stack([own[i] * attention[i, j] for i in range(len(own))])
            total = attended.sum()
            attended = attended / total if total > 0 else own / own.sum()
            point = head(mixture(attended, features[:, :, j]))
            terms.append(cross_entropy(point, mixture(attended, targets[:, j]), **classes))
        losses.append(sum(terms) / len(terms) if terms else None)
    return reduced(losses, reduction)
