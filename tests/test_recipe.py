"""The recipe against literal loops, and inside the training loops of timm and Lightning."""

import copy

import lightning
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3, NativeScaler
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mmlib import DenseMultiMixLoss, MultiMixBCELoss, MultiMixLoss, sample_mixing_weights
from mmlib.recipe import MultiMixRecipe
from mmlib.transforms import draw_pairs
from tests.reference import mixtures

M, D, R, C, N = 6, 5, 16, 3, 7
LABELS = torch.tensor([0, 1, 2, 0, 0, 1])
IGNORED = torch.tensor([0, -100, 2, -100, -100, 1])
ALONE = torch.tensor([-100, -100, 2, -100, -100, -100])
WEIGHT = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images() -> Tensor:
    return torch.rand(M, 1, 4, 4, dtype=torch.float64, generator=seeded(1))


def soft_targets() -> Tensor:
    return torch.rand(M, C, dtype=torch.float64, generator=seeded(2)).softmax(dim=1)


class Network(nn.Module):
    """Features at 4x4 positions, (m, d, 4, 4), pooled and classified."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Sequential(nn.Conv2d(1, D, 3, padding=1), nn.GELU()), nn.Linear(D, C)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(dim=(2, 3)))


def recipe_of(criterion: nn.Module, probability: float, seed: int = 3) -> MultiMixRecipe:
    return MultiMixRecipe(criterion, probability=probability, generator=seeded(seed))


def assert_same(model: nn.Module, loss: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-11)
    parameters = list(model.parameters())
    given, wanted = (torch.autograd.grad(x.sum(), parameters, allow_unused=True) for x in (loss, expected))
    for one, other in zip(given, wanted):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_mixed_embeddings_by_loops():
    model, x = Network(), images()
    loss = recipe_of(MultiMixLoss(N, generator=seeded(4)), 1.0)(model, x, LABELS)
    weights = sample_mixing_weights(N, M, generator=seeded(4), dtype=torch.float64)
    one_hot = F.one_hot(LABELS, C).double()
    assert_same(model, loss, mixtures.multimix(model.body(x).mean(dim=(2, 3)), model.head, one_hot, weights))


def test_mixed_features_by_loops():
    model, x = Network(), images()
    recipe = recipe_of(DenseMultiMixLoss(N, generator=seeded(4)), 1.0)
    loss = recipe(model, x, LABELS, features=model.body, head=model.head)
    weights = sample_mixing_weights(N, M, generator=seeded(4), dtype=torch.float64)
    features, inherited = model.body(x).flatten(2), F.one_hot(LABELS, C).double()[:, None].expand(M, R, C)
    attention = mixtures.gap_attention(features.detach())
    assert_same(model, loss, mixtures.dense_multimix(features, model.head, inherited, attention, weights))


def mixup_by_loops(model: nn.Module, x: Tensor, targets: Tensor, weight: Tensor, smoothing: float) -> list[Tensor]:
    """The loss of every pair that has a label, its images and targets mixed one pair at a time."""
    generator, losses = seeded(3), []
    torch.rand((), generator=generator)  # the coin
    partners, lam = draw_pairs(M, 1.0, generator=generator)
    for i, j in enumerate(partners.tolist()):
        shares = {i: lam, j: 1 - lam} if i != j else {i: 1.0}
        if targets.ndim == 1:
            shares = {k: share for k, share in shares.items() if targets[k] != -100}
        if not shares:
            continue
        total = sum(shares.values())
        image = sum(share / total * x[k] for k, share in shares.items())
        rows = {k: F.one_hot(targets[k], C).double() if targets.ndim == 1 else targets[k] for k in shares}
        target = sum(share / total * rows[k] for k, share in shares.items())
        target = weight * ((1 - smoothing) * target + smoothing / C)
        losses.append(mixtures.cross_entropy(model(image[None])[0], target))
    return losses


@pytest.mark.parametrize(
    "targets", [LABELS, LABELS.int(), IGNORED, soft_targets()], ids=["int64", "int32", "ignored", "soft"]
)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("dense", [False, True])
def test_mixup_by_loops(targets, smoothing, weight, dense):
    model, x = Network(), images()
    criterion = (DenseMultiMixLoss if dense else MultiMixLoss)(N, weight=weight, label_smoothing=smoothing)
    given = {"features": model.body, "head": model.head} if dense else {}
    losses = mixup_by_loops(
        model,
        x,
        targets.long() if targets.ndim == 1 else targets,
        torch.ones(C).double() if weight is None else weight,
        smoothing,
    )
    assert_same(model, recipe_of(criterion, 0.0)(model, x, targets, **given), sum(losses) / len(losses))


def test_mixed_embeddings_of_several_labels_by_loops():
    model, x = Network(), images()
    multi_hot, yes = soft_targets() > 0.3, torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    criterion = MultiMixBCELoss(N, weight=WEIGHT, pos_weight=yes, generator=seeded(4))
    loss = recipe_of(criterion, 1.0)(model, x, multi_hot)
    embeddings, losses = model.body(x).mean(dim=(2, 3)), []
    for row in sample_mixing_weights(N, M, generator=seeded(4), dtype=torch.float64):
        p = model.head(mixtures.mixture(row, embeddings)).sigmoid()
        y = mixtures.mixture(row, multi_hot.double())
        losses.append(-(WEIGHT * (yes * y * p.log() + (1 - y) * (1 - p).log())).mean())
    assert_same(model, loss, sum(losses) / N)


def test_mixup_of_several_labels_by_loops():
    model, x = Network(), images()
    multi_hot, yes = soft_targets() > 0.3, torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    generator, losses = seeded(3), []
    torch.rand((), generator=generator)  # the coin
    partners, lam = draw_pairs(M, 1.0, generator=generator)
    for i, j in enumerate(partners.tolist()):
        p = model(lam * x[i : i + 1] + (1 - lam) * x[j : j + 1])[0].sigmoid()
        y = lam * multi_hot[i].double() + (1 - lam) * multi_hot[j].double()
        losses.append(-(WEIGHT * (yes * y * p.log() + (1 - y) * (1 - p).log())).mean())
    recipe = recipe_of(MultiMixBCELoss(N, weight=WEIGHT, pos_weight=yes), 0.0)
    assert_same(model, recipe(model, x, multi_hot), sum(losses) / M)
    plain = F.binary_cross_entropy_with_logits(model(x), multi_hot.double(), WEIGHT, pos_weight=yes)
    assert_same(model, recipe.eval()(model, x, multi_hot), plain)


def test_reductions_of_mixup():
    model, x = Network(), images()
    losses = {k: recipe_of(MultiMixLoss(N, reduction=k), 0.0)(model, x, LABELS) for k in ("mean", "sum", "none")}
    reduced = {"mean": torch.mean, "sum": torch.sum, "none": torch.clone}
    for reduction, loss in losses.items():
        expected = torch.stack(mixup_by_loops(model, x, LABELS, torch.ones(C).double(), 0.0))
        assert_same(model, loss, reduced[reduction](expected))


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_ignored_images_are_in_no_mixture(probability):
    """... so that changing them changes nothing."""
    model, x = Network(), images()
    other = torch.where(IGNORED.view(-1, 1, 1, 1) == -100, x + 10, x)
    losses = [recipe_of(MultiMixLoss(N, generator=seeded(4)), probability)(model, y, IGNORED) for y in (x, other)]
    assert_same(model, losses[0], losses[1])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_all_ignored_is_zero_with_a_gradient(probability, training):
    model, nobody = Network(), torch.full((M,), -100)
    loss = recipe_of(MultiMixLoss(N), probability).train(training)(model, images(), nobody)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("criterion", [MultiMixLoss, DenseMultiMixLoss])
@pytest.mark.parametrize("targets", [LABELS, IGNORED, ALONE, soft_targets()], ids=["all", "ignored", "alone", "soft"])
def test_evaluation_is_plain_cross_entropy(criterion, targets):
    model, x = Network(), images()
    recipe = recipe_of(criterion(N, label_smoothing=0.1), 0.5).eval()
    given = {"features": model.body, "head": model.head} if criterion is DenseMultiMixLoss else {}
    state = recipe.generator.get_state()
    assert_same(model, recipe(model, x, targets, **given), F.cross_entropy(model(x), targets, label_smoothing=0.1))
    assert torch.equal(recipe.generator.get_state(), state)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_coin(probability):
    model, seen = Network(), []

    def spy(x: Tensor) -> Tensor:
        seen.append(torch.equal(x, images()))
        return model(x)

    recipe = recipe_of(MultiMixLoss(1), probability)
    for _ in range(200):
        recipe(spy, images(), LABELS)
    assert len(seen) == 200
    assert sum(seen) / 200 == pytest.approx(probability, abs=0.08)


def test_recipes_without_a_generator_draw_apart():
    seeds = {MultiMixRecipe(MultiMixLoss(N)).generator.initial_seed() for _ in range(200)}
    assert len(seeds) == 200
    assert max(seeds) > 2**32


def test_a_probability_of_zero_never_mixes_embeddings(monkeypatch):
    model, seen, given = Network(), [], images()
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.zeros(()))  # the least that a coin can show
    recipe_of(MultiMixLoss(1), 0.0)(lambda x: seen.append(x) or model(x), given, LABELS)
    assert not torch.equal(seen[0], given)


def test_draws_are_its_own():
    """The global generator is not touched, save to seed a recipe that is given none."""
    torch.manual_seed(5)
    state, model = torch.get_rng_state(), Network()
    torch.set_rng_state(state)
    recipe = recipe_of(MultiMixLoss(N, generator=seeded(4)), 0.5)
    for _ in range(4):
        recipe(model, images(), LABELS)
    assert torch.equal(torch.get_rng_state(), state)
    first = MultiMixRecipe(MultiMixLoss(N)).generator.get_state()
    second = MultiMixRecipe(MultiMixLoss(N)).generator.get_state()
    torch.manual_seed(5)
    assert torch.equal(MultiMixRecipe(MultiMixLoss(N)).generator.get_state(), first)
    assert not torch.equal(first, second)


def test_state_dict_goes_on_with_the_same_draws(tmp_path):
    model, criterion = Network(), MultiMixLoss(N)
    recipe = recipe_of(criterion, 0.5)
    recipe(model, images(), LABELS)
    torch.save(recipe.state_dict(), tmp_path / "recipe.pt")
    copied = copy.deepcopy(recipe)
    resumed = recipe_of(criterion, 0.5, seed=99)
    resumed.load_state_dict(torch.load(tmp_path / "recipe.pt", weights_only=True))
    for _ in range(5):
        torch.manual_seed(6)
        expected = recipe(model, images(), LABELS)
        for other in (resumed, copied):
            torch.manual_seed(6)
            assert torch.equal(other(model, images(), LABELS), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("probability", [0.0, 1.0])
@pytest.mark.parametrize("dense", [False, True])
def test_autocast(dtype, probability, dense):
    model, x = Network().float(), images().float()
    criterion = DenseMultiMixLoss if dense else MultiMixLoss
    given = {"features": model.body, "head": model.head} if dense else {}

    def loss() -> Tensor:
        options = {"weight": WEIGHT.float(), "label_smoothing": 0.1, "generator": seeded(4)}
        return recipe_of(criterion(N, **options), probability)(model, x, LABELS, **given)

    with torch.autocast("cpu", dtype):
        half = loss()
    half.backward()
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, loss(), rtol=2e-2, atol=0)
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_a_model_in_half_precision(probability):
    model, x = Network().bfloat16(), images().bfloat16()
    loss = recipe_of(MultiMixLoss(N, generator=seeded(4)), probability)(model, x, LABELS)
    single = recipe_of(MultiMixLoss(N, generator=seeded(4)), probability)(model.float(), x.float(), LABELS)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, single, rtol=2e-2, atol=0)


WRONG = [
    (lambda: MultiMixRecipe(MultiMixLoss(N), probability=1.5), ValueError, "probability"),
    (lambda: MultiMixRecipe(MultiMixLoss(N), mixup_alpha=0.0), ValueError, "alpha"),
    (lambda: MultiMixRecipe(nn.CrossEntropyLoss()), TypeError, "criterion"),
    (
        lambda: MultiMixRecipe(DenseMultiMixLoss(N))(Network(), images(), LABELS),
        TypeError,
        "takes both features and head$",
    ),
    (
        lambda: MultiMixRecipe(MultiMixLoss(N))(Network(), images(), LABELS, head=nn.Linear(D, C)),
        TypeError,
        "takes neither features nor head$",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_errors_name_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()


def digits() -> tuple[Tensor, Tensor]:
    """Images of two classes that a linear classifier tells apart, (64, 1, 32, 32)."""
    labels = torch.arange(64) % 2
    return torch.rand(64, 1, 32, 32, generator=seeded(7)) * 0.5 + 0.5 * labels.view(-1, 1, 1, 1), labels


RESNET = {"model_name": "resnet10t", "channels": (8, 16, 32, 64), "stem_width": 8, "output_stride": 8}


@pytest.mark.parametrize("dense", [False, True])
def test_timms_loop(dense):
    """What timm's train.py does in a step: autocast, scaler, clipped gradients, schedule, moving average."""
    torch.manual_seed(0)
    model = timm.create_model(**RESNET, in_chans=1, num_classes=2)
    given = {"features": model.forward_features, "head": model.get_classifier()} if dense else {}
    recipe = recipe_of((DenseMultiMixLoss if dense else MultiMixLoss)(100), 0.5)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=0.001, weight_decay=0.01)
    scheduler, _ = create_scheduler_v2(optimizer, num_epochs=2, warmup_epochs=0, updates_per_epoch=2)
    scaler, average = NativeScaler(device="cpu"), ModelEmaV3(model, decay=0.9)
    before = copy.deepcopy(model.get_classifier().weight)
    x, labels = digits()
    for epoch in range(2):
        for batch in range(2):
            with torch.autocast("cpu", torch.bfloat16):
                loss = recipe(model, x[batch::8], labels[batch::8], **given)
            assert loss.dtype == torch.float32
            assert loss.isfinite()
            optimizer.zero_grad()
            scaler(loss, optimizer, clip_grad=1.0, parameters=model.parameters())
            average.update(model, step=2 * epoch + batch)
        scheduler.step(epoch + 1)
    after, averaged = (network.get_classifier().weight for network in (model, average.module))
    assert 0 < (averaged - before).norm() < (after - before).norm()


class Classification(lightning.LightningModule):
    """Trains by the recipe and validates by the same call."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(1024, 2))
        self.recipe = MultiMixRecipe(MultiMixLoss(100))
        self.validated = []

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        return self.recipe(self.network, *batch)

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        plain = F.cross_entropy(self.network(batch[0]), batch[1])
        self.validated.append(torch.allclose(self.recipe(self.network, *batch), plain))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


# Lightning's advice on workers and accelerators, and what its calls into torch deprecate.
@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
def test_lightnings_loop(tmp_path):
    """It trains, validates on clean images, and a checkpoint resumes the recipe's draws."""
    loader = DataLoader(TensorDataset(*digits()), batch_size=16)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}

    def trainer(epochs: int) -> lightning.Trainer:
        return lightning.Trainer(max_epochs=epochs, enable_checkpointing=False, **quiet)

    module = Classification()
    first = trainer(2)
    first.fit(module, loader, loader)
    first.save_checkpoint(tmp_path / "last.ckpt")
    assert module.validated
    assert all(module.validated)
    assert module.recipe.training
    resumed = Classification()
    trainer(2).fit(resumed, loader, ckpt_path=tmp_path / "last.ckpt")
    assert torch.equal(resumed.recipe.generator.get_state(), module.recipe.generator.get_state())


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_compiled_models(probability):
    model, x = Network().float(), images().float()
    losses = [
        recipe_of(MultiMixLoss(N, generator=seeded(4)), probability)(network, x, LABELS)
        for network in (model, torch.compile(model, backend="aot_eager"))
    ]
    torch.testing.assert_close(losses[0], losses[1])


WRONG = [
    (
        MultiMixLoss(N),
        LABELS.double(),
        r"targets must have shape \(6,\) integers or \(6, 3\), got \(6,\) torch.float64",
    ),
    (MultiMixLoss(N), LABELS - 1, r"targets must be classes 0 to 2 or ignore_index \(-100\), got -1"),
    (MultiMixLoss(N), LABELS[1:], r"targets must have shape \(6,\) or \(6, c\) for 6 images, got \(5,\)"),
    (MultiMixLoss(N), soft_targets()[:, :2], r"targets must have shape \(6,\) integers or \(6, 3\), got \(6, 2\)"),
    (MultiMixLoss(N), LABELS.tolist(), "targets must be a tensor, got list"),
    (MultiMixLoss(N, weight=torch.ones(2)), LABELS, r"weight must have shape \(3,\), got \(2,\)"),
    (MultiMixBCELoss(N), LABELS, r"targets must have shape \(6, 3\), got \(6,\)"),
    (MultiMixBCELoss(N), soft_targets() + 1, "targets must be a number from 0 to 1, got"),
]


@pytest.mark.parametrize(("criterion", "targets", "words"), WRONG)
def test_every_branch_refuses_the_same(criterion, targets, words, unchecked):
    for probability, training in ((0.0, True), (1.0, True), (0.5, False)):
        with pytest.raises((TypeError, ValueError), match=words):
            recipe_of(criterion, probability).train(training)(Network(), images(), targets)


@pytest.mark.parametrize(("probability", "training"), [(0.0, True), (1.0, True), (0.5, False)])
def test_every_branch_refuses_models_and_batches_alike(probability, training, unchecked):
    model, recipe = Network(), recipe_of(MultiMixLoss(N), probability).train(training)
    with pytest.raises(ValueError, match=r"^images must have at least one example, got shape \(0, 1, 4, 4\)$"):
        recipe(model, images()[:0], LABELS[:0])
    with pytest.raises(ValueError, match="logits must have at least 2 classes"):
        recipe(nn.Sequential(model, nn.Linear(C, 1).double()), images(), LABELS * 0)
    with pytest.raises(ValueError, match=r"logits must have shape \(m, c\), got \(6, 3, 2\)"):
        recipe(lambda x: model(x).unsqueeze(2).expand(-1, -1, 2), images(), LABELS)


def test_images_of_integers_are_not_mixed(unchecked):
    model = nn.Sequential(nn.Identity(), Network())
    model[0].forward = torch.Tensor.double
    for seed in range(4):  # whatever the coin says
        with pytest.raises(TypeError, match=r"^images must be a floating-point tensor, got torch\.uint8$"):
            recipe_of(MultiMixLoss(N), 0.5, seed)(model, images().byte(), LABELS)
    recipe_of(MultiMixLoss(N), 1.0)(model, images().byte(), LABELS)
    recipe_of(MultiMixLoss(N), 0.5).eval()(model, images().byte(), LABELS)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_the_dense_recipe_takes_targets_of_examples(probability):
    """Integers (m, c) are one-hot rows; (m, r) would be classes per position, which mixup cannot take."""
    model = Network()
    given = {"features": model.body, "head": model.head}

    def loss(targets: Tensor) -> Tensor:
        return recipe_of(DenseMultiMixLoss(N, generator=seeded(4)), probability)(model, images(), targets, **given)

    assert_same(model, loss(F.one_hot(LABELS, C)), loss(LABELS))
    with pytest.raises(ValueError, match="targets must have shape"):
        loss(torch.zeros(M, R, dtype=torch.long))


def test_binary_labels_of_one_class_need_no_second_axis():
    model, tags = nn.Sequential(nn.Flatten(), nn.Linear(16, 1)).double(), LABELS % 2
    for probability, training in ((0.0, True), (1.0, True), (0.5, False)):
        losses = [
            recipe_of(MultiMixBCELoss(N, generator=seeded(4)), probability).train(training)(model, images(), targets)
            for targets in (tags, tags[:, None])
        ]
        assert_same(model, *losses)


def test_the_dense_recipe_evaluates_by_the_model_alone():
    model = Network()
    loss = recipe_of(DenseMultiMixLoss(N), 0.5).eval()(model, images(), LABELS)
    assert_same(model, loss, F.cross_entropy(model(images()), LABELS))


@pytest.mark.parametrize("value", [0, (1.0, 2.0), "1"])
def test_alpha_of_mixup_is_named(value, unchecked):
    with pytest.raises((TypeError, ValueError), match="mixup_alpha must be a positive number, got"):
        MultiMixRecipe(MultiMixLoss(N), mixup_alpha=value)


def test_the_recipe_is_compiled_as_a_whole(unchecked):
    with pytest.raises(TypeError, match=r"got OptimizedModule; compile the recipe instead$"):
        MultiMixRecipe(torch.compile(MultiMixLoss(N)))


def test_a_seed_is_no_generator(unchecked):
    with pytest.raises(TypeError, match="generator must be Generator or None, got 0"):
        MultiMixRecipe(MultiMixLoss(N), generator=0)


def test_the_recipe_says_what_it_is():
    words = repr(MultiMixRecipe(MultiMixLoss(7), probability=0.25, mixup_alpha=0.5))
    assert words.startswith(
        "MultiMixRecipe(\n  probability=0.25, mixup_alpha=0.5\n  (criterion): MultiMixLoss(num_mixtures=7"
    )
