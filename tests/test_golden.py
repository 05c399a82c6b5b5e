"""Numbers that the code has always given: a changed stream of random numbers or formula moves them.

Networks and images come of a formula in double precision, and so no initialiser of a library has a part in them.
"""

import pytest
import torch
from torch import nn

from mmlib import _backend, sample_mixing_weights
from mmlib.experiments.methods import METHODS
from mmlib.experiments.methods.base import option_names
from mmlib.experiments.models.classifier import Classifier
from mmlib.experiments.models.preact_resnet import preact_resnet
from mmlib.transforms import draw_pairs, zeta_weights
from tests.conftest import C, M

# Of every method with seed 2: its first three losses, and the norm of their sum's gradient by all parameters.
FIRST_LOSSES = {
    "erm": (1.38657448154, 1.38657448154, 1.38657448154, 4.92737809046),
    "mixup": (1.38005822532, 1.37834924327, 1.36404191452, 4.83553416457),
    "cutmix": (1.39058286235, 1.38657448154, 1.33576071028, 4.94801350986),
    "manifold_mixup": (1.38368837622, 1.39364374068, 1.43253835885, 5.07362328675),
    "puzzlemix": (1.441669524, 1.38657448154, 1.42466606394, 5.32444450031),
    "comixup": (1.47862529628, 1.41513207291, 1.44181043457, 5.62926476809),
    "alignmixup": (1.39653202001, 1.38960696937, 1.38317975736, 4.89749027863),
    "zeta_mixup": (1.43156611643, 1.41781597416, 1.39597905875, 5.03805723601),
    "multimix": (1.29841284774, 1.38527071862, 1.39502130752, 4.70453508275),
    "dense_multimix": (1.4448995127, 1.520270997, 1.39502130752, 4.72461148025),
    "multimix_distill": (1.02753146318, 1.0797271303, 1.09045643951, 1.89687054979),
    "dense_multimix_distill": (1.12999294004, 1.16207726525, 1.09045643951, 2.3555840843),
    "multimix_tuples": (1.64129764126, 1.52974427484, 1.39502130752, 6.21568754135),
    "multimix_one_alpha": (1.410802667, 1.40697062133, 1.41903790046, 4.82048420589),
    "multimix_hidden": (1.31553520078, 1.40157124539, 1.39502130752, 4.93450735007),
    "dense_multimix_attention": (1.10772530608, 1.14821119222, 1.39502130752, 4.68673364839),
    "multimix_distill_at_mixture": (1.02619360437, 1.07862470844, 1.0979057743, 1.90957443764),
    "multimix_amplified": (1.29841284774, 1.38527071862, 1.39502130752, 4.82595859783),
    "multimix_annealed": (1.29841284774, 1.45883290322, 1.39502130752, 4.860160111),
    "multimix_around": (1.3716252168, 1.38106283682, 1.39502130752, 5.14993226626),
}


def scattered(*shape: int, start: float = 0.0) -> torch.Tensor:
    """Numbers in [0, 1), as multiples of the golden ratio scatter them."""
    numbers = torch.arange(torch.Size(shape).numel(), dtype=torch.double)
    return ((numbers * 0.6180339887498949 + start) % 1).view(shape)


def network() -> Classifier:
    """A small network whose weights are scattered: centred at 1 in norms, else at 0 and as large as is usual."""
    classifier = Classifier(preact_resnet(1, 4, (1, 1)), 8, classes=C, mean=(0.4,), std=(0.2,)).double()
    with torch.no_grad():
        for k, (name, parameter) in enumerate(classifier.named_parameters()):
            numbers = scattered(*parameter.shape, start=0.1 * k) - 0.5
            is_scale = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(1 + numbers if is_scale else 3 * numbers / parameter[0].numel() ** 0.5)
    return classifier


@pytest.mark.parametrize("name", sorted(METHODS))
def test_first_losses(name):
    given = {"num_mixtures": 20} if "num_mixtures" in option_names(METHODS[name]) else {}
    method = METHODS[name](network(), seed=2, **given)
    images, labels = scattered(M, 1, 8, 8), torch.arange(M) % C
    losses = []
    for _ in range(3):
        losses.append(method(images, labels))
        method.on_step_end()
    gradients = torch.autograd.grad(sum(losses), list(method.classifier.parameters()))
    norm = nn.utils.get_total_norm(gradients)
    assert [x.item() for x in (*losses, norm)] == pytest.approx(FIRST_LOSSES[name], rel=1e-9)


# The second row of Λ for four examples, at concentrations below and around the one where the samplers change their way.
ROWS = [
    ("numba float32", 0.2, (8.0893287304206751e-06, 0.00079906074097380042, 0.30616337060928345, 0.69302946329116821)),
    ("numba float32", 0.01, (0.0, 0.0, 9.151897989445601e-11, 1.0)),
    (
        "numba float32",
        (0.1, 0.4),
        (0.00023501194664277136, 0.00409301510080695, 0.37524273991584778, 0.6204292178153992),
    ),
    ("numba float32", (0.1, 3.0), (0.47603791952133179, 0.11113729327917099, 0.23465754091739655, 0.1781673133373260)),
    ("torch float32", 0.2, (0.033325061202049255, 0.28813636302947998, 0.12767434120178223, 0.55086421966552734)),
    ("torch float32", 0.01, (5.0829929262889759e-30, 4.2393252562292964e-16, 1.4070595336794442e-17, 1.0)),
    (
        "torch float32",
        (0.1, 0.4),
        (0.027559911832213402, 0.26911962032318115, 0.11755507439374924, 0.58576542139053345),
    ),
    ("torch float64", 0.2, (0.49672955987407907, 0.24633393664713998, 0.03169851087281339, 0.2252379926059675)),
    (
        "torch float64",
        0.01,
        (0.98867872936052636, 1.2239735890116905e-11, 7.3955339247237171e-24, 0.011321270627233879),
    ),
    ("torch float64", (0.1, 3.0), (0.29944385486088826, 0.35993643125693858, 0.15744271949693364, 0.18317699438523957)),
]


@pytest.mark.parametrize(("sampler", "alpha", "expected"), ROWS)
def test_mixing_weights(monkeypatch, sampler, alpha, expected):
    library, dtype = sampler.split()
    monkeypatch.setattr(_backend, "USE_NUMBA", library == "numba")
    generator = torch.Generator().manual_seed(3)
    weights = sample_mixing_weights(2, 4, alpha, generator=generator, dtype=getattr(torch, dtype))
    tolerance = 1e-5 if sampler == "torch float32" else 1e-9  # numba's have the same bits everywhere
    # A weight of 1e-30 has lost digits to the power 1/α = 100 of a uniform number.
    assert weights[1].tolist() == pytest.approx(expected, rel=tolerance * (100 if alpha == 0.01 else 1), abs=0)


@pytest.mark.parametrize(
    ("alpha", "partners", "lam"),
    [
        (1.0, [1, 0, 5, 2, 4, 3], 0.2592053355477788),
        (0.2, [0, 4, 5, 3, 2, 1], 0.002148029871404405),
        (2.0, [1, 0, 5, 2, 4, 3], 0.33184950039685246),
    ],
)
def test_pairs(alpha, partners, lam):
    drawn = draw_pairs(6, alpha, generator=torch.Generator().manual_seed(5))
    assert drawn[0].tolist() == partners
    assert drawn[1] == pytest.approx(lam, rel=1e-9)


def test_weights_by_rank():
    weights = zeta_weights(4, 2.8, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    first, second, third, fourth = 0.82621221819137, 0.11863357698935978, 0.03811993047738357, 0.017034274341886466
    assert weights[0].tolist() == pytest.approx([first, second, fourth, third], rel=1e-9)
    assert weights[1].tolist() == pytest.approx([second, first, third, fourth], rel=1e-9)
