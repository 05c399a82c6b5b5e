"""Empirical risk minimisation, which mixes nothing."""

from mmlib.experiments.methods.base import Method


class ERM(Method):
    """Empirical risk minimisation: cross-entropy of the examples as they are."""
