"""Every call of mmlib and mmbook has its tensors' shapes checked (jaxtyping with beartype) while the tests run."""

import pytest
import torch

try:
    import jaxtyping

    import tests.typechecker  # noqa: F401  the hook looks the name up and imports only its first part
except ImportError:  # `tests/cuda` does without
    jaxtyping = None
else:
    jaxtyping.install_import_hook(["mmlib", "mmbook"], "tests.typechecker.typechecker")

M, C = 6, 3  # examples and classes of the methods' tests


@pytest.fixture
def unchecked(monkeypatch):
    """Switch the checks off for a test: wrong arguments arrive as a user's do, and the code's own errors are raised."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def classifier():
    from mmlib.experiments.models.classifier import Classifier
    from mmlib.experiments.models.preact_resnet import preact_resnet

    torch.manual_seed(0)
    return Classifier(preact_resnet(1, 4, (1, 1)), 8, classes=C, mean=(0.4,), std=(0.2,)).double()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(M, 1, 8, 8, generator=generator, dtype=torch.double)
    return images, torch.randint(C, (M,), generator=generator)
