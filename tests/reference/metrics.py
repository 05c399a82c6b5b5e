"""Metrics as their formulas read: one pair, one bin at a time. Independent of mmlib on purpose, and slow."""

import math


def pairs(embeddings):
    """All distinct pairs of indices with their squared distance on the sphere."""
    unit = [[x / math.hypot(*row) for x in row] for row in embeddings.tolist()]
    for i in range(len(unit)):
        for j in range(i + 1, len(unit)):
            yield i, j, sum((a - b) ** 2 for a, b in zip(unit[i], unit[j]))


def alignment(embeddings, labels):
    """Mean squared distance over the distinct pairs of the same class."""
    squares = [square for i, j, square in pairs(embeddings) if labels[i] == labels[j]]
    return sum(squares) / len(squares)


def uniformity(embeddings, t):
    """Logarithm of the mean of exp(-t squared distance) over the distinct pairs."""
    potentials = [math.exp(-t * square) for _, _, square in pairs(embeddings)]
    return math.log(sum(potentials) / len(potentials))
