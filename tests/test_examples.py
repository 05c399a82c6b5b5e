"""The examples run, their steps are those of the literal formulas, and the blocks of Python on the pages execute."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples import lightning_module, plain, targets, timm_step
from mmlib import DenseMultiMixLoss, MultiMixLoss, MultiMixRecipe, mixed_cross_entropy, sample_mixing_weights
from tests.reference import mixtures

ROOT = Path(__file__).parents[1]
M, C, N = 6, 3, 7
EXACT = {"rtol": 1e-9, "atol": 1e-11}
LABELS = torch.tensor([0, 1, 2, 0, 0, 1])
MULTI_HOT = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 0], [0, 0, 1], [1, 1, 0]]).double()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def embeddings_only(criterion: nn.Module) -> MultiMixRecipe:
    return MultiMixRecipe(criterion, probability=1.0)


def assert_step(
    model: nn.Module, loss: Tensor | float, before: list[Tensor], gradients: tuple, expected: Tensor
) -> None:
    """A step of SGD has moved the parameters by the gradients of the loss `expected`."""
    assert float(loss) == pytest.approx(float(expected.detach()))
    moved = [p - g for p, g in zip(before, gradients)]
    torch.testing.assert_close([p.detach() for p in model.parameters()], moved, **EXACT)


def record(model: nn.Module, expected: Tensor) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    parameters = list(model.parameters())
    return [p.detach().clone() for p in parameters], torch.autograd.grad(expected, parameters)


@pytest.mark.parametrize("script", ["plain.py --epochs 1", "timm_step.py --steps 1", "targets.py"])
def test_scripts_run(script, monkeypatch, capsys):
    name, *arguments = script.split()
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    assert re.search(r"\d\.\d{4}", capsys.readouterr().out)


def test_plain_loop_learns():
    assert plain.main() > 90


def test_plain_step():
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(16, C)).double(), randn(M, 1, 4, 4)
    weights = sample_mixing_weights(N, M, generator=generator(), dtype=torch.float64)
    expected = mixtures.multimix(images.flatten(1), model[1], F.one_hot(LABELS, C).double(), weights)
    recorded = record(model, expected)
    recipe, optimizer = (
        embeddings_only(MultiMixLoss(N, generator=generator())),
        torch.optim.SGD(model.parameters(), 1.0),
    )
    loss = plain.train_step(model, recipe, optimizer, images, LABELS)
    assert_step(model, loss, *recorded, expected)


NETWORKS = {
    "resnet": (timm_step.RESNET, timm_step.loss_from_maps, "channels_first"),
    "vit": (timm_step.VIT, timm_step.loss_from_tokens, "channels_last"),
    "registers": (timm_step.VIT | {"reg_tokens": 2}, timm_step.loss_from_tokens, "channels_last"),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dense", [False, True])
def test_timm_step(name, dense):
    torch.manual_seed(0)
    network, loss_from_features, layout = NETWORKS[name]
    model, images = timm.create_model(**network, in_chans=1, num_classes=C).double(), randn(M, 1, 32, 32)
    features = model.forward_features(images)  # at 4x4 positions: a ResNet's map, or a ViT's patches after other tokens
    features = features.flatten(2) if features.ndim == 4 else features[:, -16:].transpose(1, 2)
    weights = sample_mixing_weights(N, M, generator=generator(), dtype=torch.float64)
    one_hot, head = F.one_hot(LABELS, C).double(), model.get_classifier()
    if dense:
        criterion, loss_function = DenseMultiMixLoss(N, generator=generator(), layout=layout), loss_from_features
        attention = mixtures.gap_attention(features.detach())
        inherited = one_hot[:, None].expand(M, features.shape[2], C)
        expected = mixtures.dense_multimix(features, head, inherited, attention, weights)
    else:
        criterion, loss_function = MultiMixLoss(N, generator=generator()), timm_step.loss_from_logits
        expected = mixtures.multimix(features.mean(dim=2), head, one_hot, weights)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(expected, parameters, allow_unused=True)
    before = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    loss = timm_step.train_step(loss_function, embeddings_only(criterion), model, optimizer, images, LABELS)
    assert_step(model, loss, before, [0 if g is None else g for g in gradients], expected)


# Lightning's advice on workers and accelerators, and what its calls into torch deprecate.
@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
def test_lightning_trains():
    before, after = lightning_module.main(epochs=4)
    assert after < before - 0.3


def test_lightning_step():
    torch.manual_seed(0)
    module = lightning_module.Classification(nn.Sequential(nn.Flatten(), nn.Linear(16, C)))
    module.recipe.probability = 1.0
    images = randn(M, 1, 4, 4).float()
    torch.manual_seed(3)
    loss = module.training_step([images, LABELS], 0)
    torch.manual_seed(3)
    weights = sample_mixing_weights(1000, M)
    one_hot = F.one_hot(LABELS, C).float()
    expected = mixtures.multimix(images.flatten(1), module.network[1], one_hot, weights)
    torch.testing.assert_close(loss.double(), expected.double(), rtol=1e-5, atol=1e-6)


def test_classes_share_an_example():
    shared = targets.share_among_classes(MULTI_HOT)
    assert shared[0].tolist() == [0.5, 0.0, 0.5]
    assert shared.sum(dim=1).tolist() == pytest.approx([1, 1, 1, 0, 1, 1])


def test_multi_hot_rows_count_by_their_sums():
    logits, weights = randn(M, C), torch.eye(M, dtype=torch.float64)
    loss = mixed_cross_entropy(logits, MULTI_HOT, mixing_weights=weights)
    shared = F.cross_entropy(logits, targets.share_among_classes(MULTI_HOT), reduction="none")
    torch.testing.assert_close(loss, (MULTI_HOT.sum(dim=1) * shared).mean(), **EXACT)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_a_teachers_targets(gamma):
    teacher, logits = randn(M, C).requires_grad_(), randn(M, C) + 1
    blended = targets.blend_with_teacher(LABELS, teacher, gamma)
    assert not blended.requires_grad
    loss = F.cross_entropy(logits, blended)
    distilled = F.cross_entropy(logits, teacher.detach().softmax(dim=1))
    torch.testing.assert_close(loss, (1 - gamma) * F.cross_entropy(logits, LABELS) + gamma * distilled, **EXACT)


@pytest.mark.parametrize("page", ["README.md", "book/elsewhere.md"])
def test_blocks_of_python_execute(page):
    """All of a page in turn, in the place of somebody who has a model and a mini-batch."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    assert blocks
    torch.manual_seed(0)
    names = {
        "torch": torch,
        "device": torch.device("cpu"),
        "model": nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)),
        "images": torch.rand(8, 3, 32, 32),
        "labels": torch.randint(10, (8,)),
        "tags": (torch.rand(8, 10) < 0.3).float(),
    }
    for block in blocks:
        exec(compile(block, page, "exec"), names)
        assert names.get("loss", torch.zeros(())).isfinite()
