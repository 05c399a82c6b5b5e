"""What methods that mix pairs do, as it reads: one pixel, one position, one potential at a time.

Independent of mmlib on purpose, and slow.
"""

import math

import torch


def cut(image, partner, lam, centre):
    """One image (channels, height, width) with its partner's box pasted, and the share of pixels that it keeps.

    A pixel's centre is within half the box's sides of the box's centre, a corner of the pixel grid; half a side is
    rounded down to whole pixels.
    """
    height, width = image.shape[1:]
    half_y, half_x = (math.floor(math.sqrt(1 - lam) * side / 2) for side in (height, width))
    result, kept = image.clone(), height * width
    for y in range(height):
        for x in range(width):
            if abs(y + 0.5 - centre[0]) < half_y and abs(x + 0.5 - centre[1]) < half_x:
                result[:, y, x] = partner[:, y, x]
                kept -= 1
    return result, kept / (height * width)


def sinkhorn(costs, epsilon, iterations, tolerance):
    """Transport plans of several problems, (m, r, s), all stopped together, and the number of iterations."""
    m, r, s = costs.shape
    u, v = [[0.0] * r for _ in range(m)], [[0.0] * s for _ in range(m)]
    done, change = 0, math.inf
    while done < iterations and change >= tolerance:
        done, change = done + 1, 0.0
        for k in range(m):
            cost = costs[k].tolist()
            before = list(u[k])
            for i in range(r):
                u[k][i] = epsilon * (-math.log(r) - log_sum([(v[k][j] - cost[i][j]) / epsilon for j in range(s)]))
            for j in range(s):
                v[k][j] = epsilon * (-math.log(s) - log_sum([(u[k][i] - cost[i][j]) / epsilon for i in range(r)]))
            change += sum(abs(new - old) for new, old in zip(u[k], before)) / m
    plan = [
        [[math.exp((u[k][i] + v[k][j] - float(costs[k, i, j])) / epsilon) for j in range(s)] for i in range(r)]
        for k in range(m)
    ]
    return torch.tensor(plan, dtype=torch.double), done


def log_sum(exponents):
    """log Σ exp."""
    largest = max(exponents)
    return largest + math.log(sum(math.exp(x - largest) for x in exponents))


def align(features, partners, plans, lam, transport_features):
    """Mixed feature maps (m, d, r): at every position the features that the plan brings there, times r."""
    m, _, r = features.shape
    mixed = torch.zeros_like(features)
    for k in range(m):
        for j in range(r):
            if transport_features:
                brought = sum(r * plans[k, i, j] * features[k, :, i] for i in range(r))
                mixed[k, :, j] = lam * brought + (1 - lam) * partners[k, :, j]
            else:
                brought = sum(r * plans[k, j, i] * partners[k, :, i] for i in range(r))
                mixed[k, :, j] = lam * features[k, :, j] + (1 - lam) * brought
    return mixed
