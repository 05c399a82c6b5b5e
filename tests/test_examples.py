"""The examples train, and their steps are those of the literal formulas; other targets against torch's own losses."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from examples import lightning_module, plain, targets, timm_step
from mmlib import DenseMultiMixLoss, MultiMixLoss, dense_mixed_cross_entropy, mixed_cross_entropy, sample_mixing_weights
from tests.reference import mixtures

M, R, D, C, N = 6, 4, 5, 3, 7
EXACT = {"rtol": 1e-9, "atol": 1e-11}
LABELS = torch.tensor([0, 1, 2, 0, 0, 1])
MULTI_HOT = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 0], [0, 0, 1], [1, 1, 0]]).double()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def falls(losses: list[float], by: float) -> bool:
    return sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - by


def identity(logits: torch.Tensor) -> torch.Tensor:
    return logits


def assert_step(train_step, model: nn.Module, criterion: nn.Module, images: torch.Tensor, expected) -> None:
    """A step moves the parameters, and by the gradients of the loss `expected`."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    moved = [p - g for p, g in zip(model.parameters(), torch.autograd.grad(expected, list(model.parameters())))]
    loss = train_step(model, criterion, optimizer, images, LABELS)
    assert float(loss) == pytest.approx(float(expected.detach()))
    torch.testing.assert_close(list(model.parameters()), moved, **EXACT)


def test_plain_loop_trains():
    assert falls(plain.main(), by=0.03)


def test_plain_step():
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(16, C)).double(), randn(M, 1, 4, 4)
    weights = sample_mixing_weights(N, M, generator=generator(), dtype=torch.float64)
    expected = mixtures.multimix(images.flatten(1), model[1], F.one_hot(LABELS, C).double(), weights)
    assert_step(plain.train_step, model, MultiMixLoss(N, generator=generator()), images, expected)


def test_timm_models_train():
    for losses in timm_step.main():
        assert falls(losses, by=0.02)


NETWORKS = [timm_step.RESNET, timm_step.VIT, timm_step.VIT | {"reg_tokens": 2}]


@pytest.fixture(params=NETWORKS, ids=["resnet", "vit", "registers"])
def network(request):
    torch.manual_seed(0)
    return timm.create_model(**request.param, in_chans=1, num_classes=C).double()


def features_of(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Features at 4x4 positions, (m, d, r): a ResNet's map, or a ViT's patches after all other tokens."""
    features = network.forward_features(images)
    return features.flatten(2) if features.ndim == 4 else features[:, -16:].transpose(1, 2)


def test_timm_step_from_logits(network):
    images, criterion = randn(M, 1, 32, 32), MultiMixLoss(N, generator=generator())
    weights = sample_mixing_weights(N, M, generator=generator(), dtype=torch.float64)
    embeddings, one_hot = features_of(network, images).mean(dim=2), F.one_hot(LABELS, C).double()
    expected = mixtures.multimix(embeddings, network.get_classifier(), one_hot, weights)
    assert_step(timm_step.train_step, network, criterion, images, expected)


def test_timm_step_from_features(network):
    images, criterion = randn(M, 1, 32, 32), DenseMultiMixLoss(N, generator=generator())
    features = features_of(network, images)
    weights = sample_mixing_weights(N, M, generator=generator(), dtype=torch.float64)
    inherited = F.one_hot(LABELS, C).double()[:, None].expand(M, features.shape[2], C)
    attention = mixtures.gap_attention(features.detach())
    expected = mixtures.dense_multimix(features, network.get_classifier(), inherited, attention, weights)
    assert_step(timm_step.train_step, network, criterion, images, expected)
    assert all(p.grad.isfinite().all() for p in network.parameters())


# Lightning's advice on workers and accelerators, and what its calls into torch deprecate.
@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
def test_lightning_trains():
    before, after = lightning_module.main()
    assert after < before - 0.5


@pytest.mark.parametrize("of_embeddings", [True, False])
def test_lightning_step(of_embeddings):
    module = lightning_module.Classification(nn.Sequential(nn.Flatten(), nn.Linear(16, C)), C)
    images, one_hot = randn(M, 1, 4, 4).float(), F.one_hot(LABELS, C).float()
    seed = 0 if of_embeddings else 1
    torch.manual_seed(seed)
    loss = module.training_step([images, LABELS], 0)
    torch.manual_seed(seed)
    assert (torch.rand(()) < 0.5) == of_embeddings
    if of_embeddings:
        expected = mixtures.multimix(images.flatten(1), module.network[1], one_hot, sample_mixing_weights(1000, M))
    else:
        lam, losses = torch.as_distributions.Beta(torch.ones(1), torch.ones(1)).sample(()).item(), []
        for i in range(M):  # partners are neighbours, of images that a loader has shuffled
            logits = module.network(lam * images[i : i + 1] + (1 - lam) * images[i - 1 : i or None])[0]
            losses.append(mixtures.cross_entropy(logits, lam * one_hot[i] + (1 - lam) * one_hot[i - 1]))
        expected = sum(losses) / M
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [(1.0, 1.0, 1.0), (0.5, 2.0, 3.0)])
def test_weighted_and_smoothed_as_torch_does(weight, smoothing):
    weight = torch.tensor(weight, dtype=torch.float64)
    ours, theirs = randn(M, C).requires_grad_(), randn(M, C).requires_grad_()
    given = targets.weighted_and_smoothed(LABELS, weight, smoothing)
    loss = mixed_cross_entropy(ours, given, torch.eye(M, dtype=torch.float64))
    expected = F.cross_entropy(theirs, LABELS, weight=weight, label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected, **EXACT)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, **EXACT)


def test_weighting_and_smoothing_commute_with_mixing():
    weight, logits = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64), randn(M, C)
    weights = sample_mixing_weights(N, M, generator=generator(), dtype=torch.float64)
    loss = mixed_cross_entropy(logits, targets.weighted_and_smoothed(LABELS, weight, 0.1), weights)
    total = 0
    for row in weights:
        mixed = mixtures.mixture(row, F.one_hot(LABELS, C).double())
        total += mixtures.cross_entropy(mixtures.mixture(row, logits), weight * (0.9 * mixed + 0.1 / C))
    mean_weight = sum(weight[label] for label in LABELS.tolist()) / M
    torch.testing.assert_close(loss, total / N / mean_weight, **EXACT)


def test_multi_hot_rows_as_they_are_count_by_their_sums():
    logits, expected_logits = randn(M, C).requires_grad_(), randn(M, C).requires_grad_()
    loss = mixed_cross_entropy(logits, MULTI_HOT, torch.eye(M, dtype=torch.float64))
    sums = MULTI_HOT.sum(dim=1)
    shared = F.cross_entropy(expected_logits, targets.one_of_several(MULTI_HOT), reduction="none")
    expected = (sums * shared).sum() / M
    torch.testing.assert_close(loss, expected, **EXACT)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(logits.grad, expected_logits.grad, **EXACT)


@pytest.mark.parametrize("prepare", [identity, targets.one_of_several])
def test_multi_hot_rows_mix_as_others_do(prepare):
    """... with a row of zeros and rows that do not sum to 1, value and gradient, plain and dense."""
    weights, rows = sample_mixing_weights(N, M, generator=generator(), dtype=torch.float64), prepare(MULTI_HOT)
    ours, theirs = randn(M, R, C).requires_grad_(), randn(M, R, C).requires_grad_()
    attention = mixtures.gap_attention(randn(M, D, R))
    loss = mixed_cross_entropy(ours[:, 0], rows, weights) + dense_mixed_cross_entropy(ours, rows, attention, weights)
    inherited = rows[:, None].expand(M, R, C)
    expected = mixtures.multimix(theirs[:, 0], identity, rows, weights)
    expected = expected + mixtures.dense_multimix(theirs.mT, identity, inherited, attention, weights)
    torch.testing.assert_close(loss, expected, **EXACT)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, **EXACT)


def test_one_of_several_shares():
    shared = targets.one_of_several(MULTI_HOT)
    assert shared[0].tolist() == [0.5, 0.0, 0.5]
    assert shared.sum(dim=1).tolist() == pytest.approx([1, 1, 1, 0, 1, 1])


def test_each_by_itself_on_embeddings():
    embeddings, head = randn(M, D), nn.Linear(D, C).double()
    torch.manual_seed(3)
    loss = targets.each_by_itself(head(embeddings), MULTI_HOT, num_mixtures=N)
    torch.manual_seed(3)
    total = 0
    for row in sample_mixing_weights(N, M, dtype=torch.float64):
        p = 1 / (1 + torch.exp(-head(mixtures.mixture(row, embeddings))))
        y = mixtures.mixture(row, MULTI_HOT)
        total += -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    torch.testing.assert_close(loss, total / N, **EXACT)


def test_targets_print(capsys):
    targets.main()
    assert "1.2444" in capsys.readouterr().out
