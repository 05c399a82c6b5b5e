"""The loop against a literal one, its configuration, and runs that stop and go on."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmlib.experiments import data, models, training
from mmlib.experiments.evaluation import predict
from mmlib.experiments.methods import METHODS
from mmlib.experiments.methods.base import option_names
from mmlib.experiments.training.checkpoints import Checkpoints
from mmlib.experiments.training.config import Config
from mmlib.experiments.training.optim import learning_rate


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def small(**overrides):
    return Config(**{"dataset": "digits", "method": "erm", "epochs": 4, "precision": "float64", **overrides})


def test_loop_is_sgd_on_the_batches_in_order(digits):
    config = small(lr=0.05, momentum=0.8, weight_decay=1e-2, epochs=2)
    run = training.training(config, digits)
    torch.manual_seed(config.seed)
    classifier = models.build("preactresnet-small", digits).double()
    batches = data.Batches(
        digits.training, 50, padding=digits.padding, generator=torch.Generator().manual_seed(0), dtype=torch.double
    )
    velocity = {p: torch.zeros_like(p) for p in classifier.parameters()}
    losses, step, steps = [], 0, 2 * len(batches)
    for _ in range(2):
        for images, labels in batches:
            lr = 0.05 * (1 + math.cos(math.pi * step / steps)) / 2
            loss = F.cross_entropy(classifier(images), labels)
            parameters = list(classifier.parameters())
            for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters)):
                velocity[p] = 0.8 * velocity[p] + gradient + 1e-2 * p.detach()
                p.data -= lr * velocity[p]
            losses.append(loss.item())
            step += 1
    assert [row["loss"] for row in run.history] == pytest.approx([sum(losses[:2]) / 2, sum(losses[2:]) / 2])
    torch.testing.assert_close(dict(run.classifier.named_parameters()), dict(classifier.named_parameters()))


def test_loop_is_adamw_that_spares_what_is_no_matrix(digits):
    """Against the published update, and against timm's choice of what decays."""
    from timm.optim import param_groups_weight_decay

    of_adamw = {"optimizer": "adamw", "momentum": 0.8, "weight_decay": 0.3, "lr": 0.01, "warmup_epochs": 1}
    config = small(model="vit-tiny", epochs=2, **of_adamw)
    run = training.training(config, digits)
    torch.manual_seed(config.seed)
    classifier = models.build("vit-tiny", digits).double()
    spared, decayed = param_groups_weight_decay(classifier, 0.3, no_weight_decay_list=["encoder.0.places"])
    decay = {p: group["weight_decay"] for group in (spared, decayed) for p in group["params"]}
    batches = data.Batches(
        digits.training, 50, padding=digits.padding, generator=torch.Generator().manual_seed(0), dtype=torch.double
    )
    first, second = ({p: torch.zeros_like(p) for p in decay} for _ in range(2))
    step, steps = 0, 2 * len(batches)
    for _ in range(2):
        for images, labels in batches:
            lr = 0.01 * min(1, step / len(batches)) * (1 + math.cos(math.pi * step / steps)) / 2
            step += 1
            loss = F.cross_entropy(classifier(images), labels)
            for p, gradient in zip(decay, torch.autograd.grad(loss, list(decay))):
                p.data *= 1 - lr * decay[p]
                first[p] = 0.8 * first[p] + 0.2 * gradient
                second[p] = 0.999 * second[p] + 0.001 * gradient**2
                root = (second[p] / (1 - 0.999**step)).sqrt()
                p.data -= lr * first[p] / (1 - 0.8**step) / (root + 1e-8)
    assert {0.0, 0.3} == set(decay.values())
    torch.testing.assert_close(dict(run.classifier.named_parameters()), dict(classifier.named_parameters()))


def test_learning_rates():
    steps = Config(lr=0.2, schedule="steps")
    for progress, expected in ((0, 0.2), (0.2499, 0.2), (0.25, 0.02), (0.5, 0.002), (0.75, 0.0002), (0.9999, 0.0002)):
        assert learning_rate(steps, progress) == pytest.approx(expected)
    tinyimagenet = Config(lr=0.2, schedule="steps", milestones=[0.5, 0.75], epochs=1200)
    for epoch, expected in ((599, 0.2), (600, 0.02), (899, 0.02), (900, 0.002), (1199, 0.002)):
        assert learning_rate(tinyimagenet, epoch / 1200) == pytest.approx(expected)
    assert [learning_rate(Config(lr=0.2), p) for p in (0, 0.5, 1)] == pytest.approx([0.2, 0.1, 0])
    warm = Config(lr=0.2, epochs=10, warmup_epochs=2, schedule="steps", milestones=[0.9])
    assert [learning_rate(warm, epoch / 10) for epoch in (0, 0.5, 1, 2, 8)] == pytest.approx([0, 0.05, 0.1, 0.2, 0.2])
    assert learning_rate(Config(lr=0.2, epochs=10, warmup_epochs=9), 0.5) == pytest.approx(0.1 * 5 / 9)


def test_a_run_of_before_there_was_a_parameter_had_its_default():
    before = {"lr": 0.1, "schedule": "steps", "data": "0a"}
    assert training.difference(before, before | {"milestones": [0.25, 0.5, 0.75], "optimizer": "sgd"}) is None
    assert training.difference(before, before | {"milestones": [0.5, 0.75]}) == (
        "milestones",
        [0.25, 0.5, 0.75],
        [0.5, 0.75],
    )
    assert training.difference(before, {"data": "0b"}) == ("data", "0a", "0b")
    assert training.difference({}, {"data": "0b"}) == ("data", None, "0b")


def test_same_seed_same_run_whatever_the_global_generator(digits):
    runs = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        runs.append(training.training(small(method="multimix"), digits))
    assert [row["loss"] for row in runs[0].history] == [row["loss"] for row in runs[1].history]
    other = training.training(small(method="multimix", seed=1), digits)
    assert other.history[0]["loss"] != runs[0].history[0]["loss"]


def test_training_leaves_the_global_generator_alone(digits):
    state = torch.get_rng_state()
    training.training(small(method="multimix", epochs=1), digits)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "of_method",
    [{"method": "multimix", "optimizer": "adamw", "warmup_epochs": 4}, {"method": "dense_multimix_distill"}],
)
@pytest.mark.parametrize("every", [{"checkpoint_epochs": 1}, {"checkpoint_minutes": 0}, {"checkpoint_epochs": 2}, {}])
def test_stopped_run_goes_on_as_if_it_had_not_stopped(digits, tmp_path, of_method, every, monkeypatch):
    config = small(epochs=6, **of_method)
    whole = training.training(config, digits)
    epochs = training.train_epoch

    def stops_at_3(run, epoch):
        if epoch == 3:
            raise KeyboardInterrupt
        return epochs(run, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_epoch", stops_at_3)
        with pytest.raises(KeyboardInterrupt):
            training.training(config, digits, folder=tmp_path, **every)
    begun = Checkpoints(tmp_path).load()
    assert len(begun["history"]) == {1: 3, 2: 2, None: 3 if every else 1}[every.get("checkpoint_epochs")]
    again = training.training(config, digits, folder=tmp_path)
    torch.testing.assert_close(again.objective.state_dict(), whole.objective.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(again.optimizer.state_dict(), whole.optimizer.state_dict(), rtol=0, atol=0)
    assert [row["loss"] for row in again.history] == [row["loss"] for row in whole.history]
    assert [row["lr"] for row in again.history] == [row["lr"] for row in whole.history]
    assert [row["epoch"] for row in again.history] == [1, 2, 3, 4, 5, 6]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint-before.pt", "checkpoint.pt"]


def test_a_run_out_of_time_stops_at_a_checkpoint_and_goes_on(digits, tmp_path):
    config = small(method="multimix", epochs=3)
    for epochs in (1, 2):
        with pytest.raises(TimeoutError, match=rf"max_minutes is 1e-06: stopped after {epochs} of 3 epochs; run again"):
            training.training(config, digits, folder=tmp_path, max_minutes=1e-6)
    run = training.training(config, digits, folder=tmp_path, max_minutes=1e-6)  # nothing is left to stop before
    whole = training.training(config, digits)
    torch.testing.assert_close(run.objective.state_dict(), whole.objective.state_dict(), rtol=0, atol=0)
    with pytest.raises(TimeoutError, match="max_minutes is -3: no time is left"):
        training.training(config, digits, max_minutes=-3)


@pytest.mark.parametrize(
    ("override", "message"),
    [({"lr": 0.3}, "made with lr 0.1, not 0.3"), ({"seed": 1, "method": "mixup"}, "made with method 'erm'")],
)
def test_checkpoint_of_another_run_is_passed_over_by_name(digits, tmp_path, override, message):
    training.training(small(epochs=1), digits, folder=tmp_path)
    with pytest.warns(UserWarning, match=rf"checkpoint.pt was {message}.*passed over"):
        run = training.training(small(**{"epochs": 1, **override}), digits, folder=tmp_path)
    assert len(run.history) == 1


def test_checkpoint_of_other_code_is_passed_over(digits, tmp_path, monkeypatch):
    training.training(small(epochs=1), digits, folder=tmp_path)
    monkeypatch.setattr(training, "code_digest", lambda: "other")
    with pytest.warns(UserWarning, match=r"made with code '[0-9a-f]{16}', not 'other': passed over"):
        training.training(small(epochs=1), digits, folder=tmp_path)


def test_a_compiled_run_trains_through_what_is_compiled(digits, tmp_path, monkeypatch):
    compiled = []

    def interpreted(module):  # the compiler itself is in test_compile
        compiled.append(torch.nn.Sequential())
        compiled[-1].forward = lambda *batch: module(*batch)
        return compiled[-1]

    monkeypatch.setattr(torch, "compile", interpreted)
    run = training.training(small(method="multimix", epochs=2), digits, compile=True, folder=tmp_path)
    assert run.loss is compiled[0]
    plain = training.training(small(method="multimix", epochs=2), digits)
    torch.testing.assert_close(run.objective.state_dict(), plain.objective.state_dict(), rtol=0, atol=0)
    assert len(compiled) == 1


def test_loss_that_is_not_finite_stops_the_run(digits):
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at step \d+ of mixup, seed 3; a lower lr"):
        training.training(small(method="mixup", lr=1e200, seed=3, epochs=50), digits)


def test_validation_never_sees_the_test_set(digits):
    run = training.training(small(epochs=2), digits)
    logits = predict(run.classifier, digits.validation).logits
    expected = (logits.argmax(1) == digits.validation.labels).double().mean().item() * 100
    assert run.history[-1]["validation_accuracy"] == pytest.approx(expected)


def test_autocast_keeps_float32_weights(digits):
    run = training.training(small(method="multimix", precision="bfloat16", epochs=1), digits)
    assert {p.dtype for p in run.classifier.parameters()} == {torch.float32}
    assert math.isfinite(run.history[0]["loss"])


def flat(classifier):
    return torch.cat([p.detach().flatten() for p in classifier.parameters()])


@pytest.mark.parametrize("probability", [0, 1])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_in_bfloat16_is_close_to_one_in_float32(digits, method, probability):
    options = {"probability": probability} if "probability" in option_names(METHODS[method]) else {}
    steps = []
    for precision in ("float32", "bfloat16"):
        config = small(method=method, options=options, precision=precision, batch_size=100, epochs=1, momentum=0.0)
        run, losses = training.Trainer(config, digits), []
        run.objective.register_forward_hook(lambda module, inputs, loss, losses=losses: losses.append(loss.detach()))
        before = flat(run.classifier)
        training.train_epoch(run, 0)
        steps.append((*losses, flat(run.classifier) - before))
    (exact, step), (loss, rounded) = steps
    assert loss.dtype == exact.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=5e-3, atol=0)
    # Puzzle Mix and Co-Mixup choose blocks by saliency: rounded, another block can be the most salient one.
    assert 0 < (rounded - step).norm() < (0.6 if method in ("puzzlemix", "comixup") else 0.3) * step.norm()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"method": "mutlimix"}, "method is 'mutlimix'; it takes erm, mixup"),
        ({"model": "resnet"}, "model is 'resnet'; it takes preactresnet-small"),
        ({"schedule": "linear"}, "schedule is 'linear'; it takes cosine, steps"),
        ({"optimizer": "adam"}, "optimizer is 'adam'; it takes sgd, adamw"),
        ({"optimizer": "adamw", "momentum": 1.0}, "momentum is 1.0; adamw takes a number below 1"),
        ({"milestones": [0.5]}, r"milestones is \[0.5\]; only the schedule 'steps' takes any, not 'cosine'"),
        ({"schedule": "steps", "milestones": [600, 900]}, r"milestones is \[600, 900\]; it takes growing shares"),
        ({"schedule": "steps", "milestones": [0.75, 0.5]}, r"milestones is \[0.75, 0.5\]; it takes growing"),
        ({"warmup_epochs": -1}, "warmup_epochs is -1; it takes a whole number of at least 0"),
        ({"warmup_epochs": 5, "epochs": 5}, "warmup_epochs is 5; it takes fewer than the 5 epochs"),
        ({"precision": "half"}, "precision is 'half'; it takes float32"),
        ({"epochs": 0}, "epochs is 0; it takes a whole number of at least 1"),
        ({"epochs": True}, "epochs is True; it takes int"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"labelled_per_class": 0}, "labelled_per_class is 0"),
        ({"lr": -0.1}, "lr is -0.1; it takes a number of at least 0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"method": "erm", "options": {"m": 3}}, "options has 'm'; erm takes none"),
        ({"method": "multimix", "options": {"m": 3}}, "options has 'm'; multimix takes alpha, mixup_alpha, n"),
        ({"method": "multimix", "options": {"num_mixtures": 0}}, "n is 0"),
        ({"method": "multimix", "options": {"alpha": -1}}, "alpha is -1"),
        ({"method": "multimix", "options": {"alpha": [2.0, 0.5]}}, r"alpha is \[2.0, 0.5\]"),
    ],
)
def test_impossible_configurations_are_named(override, message):
    with pytest.raises(ValueError, match=message):
        Config(**override)
