"""Metrics as their formulas read: one pair, one bin at a time. Independent of mmlib on purpose, and slow."""

import math


def pairs(embeddings):
    """All distinct pairs of indices with their squared distance on the sphere."""
    unit = [[x / (math.hypot(*row) or 1) for x in row] for row in embeddings.tolist()]
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


def cosine(u, v):
    """Inner product of two lists over the product of their lengths; 0 if one of them is zero."""
    return sum(a * b for a, b in zip(u, v)) / (math.hypot(*u) * math.hypot(*v) or 1)


def knn_accuracy(train_embeddings, train_labels, embeddings, labels, k):
    """Majority of the k most similar, one vote each; of tied classes the one met first, from the nearest on."""
    correct = 0
    for embedding, label in zip(embeddings.tolist(), labels.tolist()):
        train = zip(train_embeddings.tolist(), train_labels.tolist())
        nearest = sorted(train, key=lambda pair: -cosine(embedding, pair[0]))[:k]
        votes = {}
        for _, neighbour in nearest:
            votes[neighbour] = votes.get(neighbour, 0) + 1
        correct += max(votes, key=votes.get) == label  # a dictionary keeps the order, max takes the first
    return correct / len(labels)


def confusion_matrix(logits, labels):
    """Counts of the true class, by row, and the most probable one, by column."""
    counts = [[0] * logits.shape[1] for _ in range(logits.shape[1])]
    for row, label in zip(logits.tolist(), labels.tolist()):
        counts[label][row.index(max(row))] += 1
    return counts


def class_variances(embeddings, labels):
    """Mean squared distance of an embedding to its class's mean, and of that to the mean of all; on the sphere."""
    unit = [[x / (math.hypot(*row) or 1) for x in row] for row in embeddings.tolist()]
    labels = labels.tolist()

    def mean(rows):
        return [sum(column) / len(rows) for column in zip(*rows)]

    means = {label: mean([u for u, other in zip(unit, labels) if other == label]) for label in set(labels)}
    within = [math.dist(u, means[label]) ** 2 for u, label in zip(unit, labels)]
    between = [math.dist(means[label], mean(unit)) ** 2 for label in labels]
    return sum(within) / len(unit), sum(between) / len(unit)


def class_mean_cosine(embeddings, labels):
    """Mean over the pairs of classes, each class mean minus the mean of all."""
    centre = embeddings.mean(0)
    means = [(embeddings[labels == k].mean(0) - centre).tolist() for k in sorted(set(labels.tolist()))]
    cosines = [cosine(u, v) for i, u in enumerate(means) for v in means[:i]]
    return sum(cosines) / len(cosines)
