"""The training loop against a literal one, its configuration, and runs that stop and resume."""

import dataclasses
import inspect
import math
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmlib.experiments import data, models
from mmlib.experiments.methods import METHODS
from mmlib.experiments.seeding import spawn_seeds
from mmlib.experiments.training import config as config_module
from mmlib.experiments.training import devices, distributed, trainer
from mmlib.experiments.training import resume as resume_module
from mmlib.experiments.training.checkpoints import Checkpoints
from mmlib.experiments.training.config import Config
from mmlib.experiments.training.optim import learning_rate
from mmlib.experiments.training.resume import first_mismatch
from mmlib.experiments.training.trainer import Trainer, train, train_epoch
from tests.helpers import assert_same_state


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def small(**overrides):
    return Config(**{"dataset": "digits", "method": "erm", "epochs": 4, "precision": "float64", **overrides})


def network_and_batches(config, dataset):
    """The initial network and the mini-batches of a run, from the seeds that it derives."""
    seeds = spawn_seeds(config.seed)
    with torch.random.fork_rng():
        torch.manual_seed(seeds.weights)
        classifier = models.build(config.model, dataset).double()
    batches = data.Batches(
        dataset.train,
        dataset.batch_size,
        padding=dataset.padding,
        flip=dataset.flip,
        generator=torch.Generator().manual_seed(seeds.order),
        augmentation_generator=torch.Generator().manual_seed(seeds.augmentation),
        dtype=torch.double,
    )
    return classifier, batches


def test_loop_is_sgd_on_the_batches_in_order(digits):
    config = small(lr=0.05, momentum=0.8, weight_decay=1e-2, epochs=2, seed=3)
    run = train(config, digits)
    classifier, batches = network_and_batches(config, digits)
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
    run = train(config, digits)
    classifier, batches = network_and_batches(config, digits)
    positions = [name for name, p in classifier.named_parameters() if p.ndim == 3 and p.shape[0] == 1]
    assert len(positions) == 1
    spared, decayed = param_groups_weight_decay(classifier, 0.3, no_weight_decay_list=positions)
    decay = {p: group["weight_decay"] for group in (spared, decayed) for p in group["params"]}
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


def test_a_run_made_before_a_parameter_existed_had_its_default():
    before = {"lr": 0.1, "schedule": "steps", "data": "0a"}
    assert first_mismatch(before, before | {"milestones": [0.25, 0.5, 0.75], "optimizer": "sgd"}) is None
    assert first_mismatch(before, before | {"milestones": [0.5, 0.75]}) == (
        "milestones",
        [0.25, 0.5, 0.75],
        [0.5, 0.75],
    )
    assert first_mismatch(before, {"data": "0b"}) == ("data", "0a", "0b")
    assert first_mismatch({}, {"data": "0b"}) == ("data", None, "0b")


@pytest.mark.slow
def test_same_seed_same_run_whatever_the_global_generator(digits):
    runs = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        runs.append(train(small(method="multimix"), digits))
    assert [row["loss"] for row in runs[0].history] == [row["loss"] for row in runs[1].history]
    other = train(small(method="multimix", seed=1), digits)
    assert other.history[0]["loss"] != runs[0].history[0]["loss"]


@pytest.mark.parametrize("method", ["erm", "multimix", "comixup", "dense_multimix_distill"])
def test_no_global_generator_is_drawn_from_or_seeded(digits, monkeypatch, method):
    seeded = []
    for name in ("manual_seed", "manual_seed_all", "seed", "seed_all"):
        monkeypatch.setattr(torch.cuda, name, lambda *seed, name=name: seeded.append(name))
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    train(small(method=method, epochs=1), digits)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert seeded == []


def test_weights_order_augmentation_and_method_have_streams_of_their_own(digits):
    """Methods share the first three; what one of them draws moves none of the others."""
    runs = [Trainer(small(method=method), digits) for method in ("erm", "multimix", "comixup")]
    batches = []
    for run in runs:
        run.method.cpu_generator.manual_seed(0)
        batches.append(next(iter(run.batches)))
    for run, (images, labels) in zip(runs[1:], batches[1:]):
        torch.testing.assert_close(run.classifier.state_dict(), runs[0].classifier.state_dict(), rtol=0, atol=0)
        assert torch.equal(images, batches[0][0])
        assert torch.equal(labels, batches[0][1])
    states = [runs[0].order_generator, runs[0].augmentation_generator, Trainer(small(), digits).method.cpu_generator]
    assert len({tuple(generator.get_state().tolist()) for generator in states}) == 3


@pytest.mark.parametrize(
    "of_method",
    [{"method": "multimix", "optimizer": "adamw", "warmup_epochs": 4}, {"method": "dense_multimix_distill"}],
)
@pytest.mark.parametrize(
    "every",
    [
        {"checkpoint_epochs": 1},
        *(
            pytest.param(every, marks=pytest.mark.slow)
            for every in ({"checkpoint_minutes": 0}, {"checkpoint_epochs": 2}, {})
        ),
    ],
)
def test_stopped_run_goes_on_as_if_it_had_not_stopped(digits, tmp_path, of_method, every, monkeypatch):
    config = small(epochs=6, **of_method)
    whole = train(config, digits)
    epochs = trainer.train_epoch

    def stops_at_3(run, epoch):
        if epoch == 3:
            raise KeyboardInterrupt
        return epochs(run, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_epoch", stops_at_3)
        with pytest.raises(KeyboardInterrupt):
            train(config, digits, folder=tmp_path, **every)
    begun = Checkpoints(tmp_path).load()
    assert len(begun["history"]) == {1: 3, 2: 2, None: 3 if every else 1}[every.get("checkpoint_epochs")]
    again = train(config, digits, folder=tmp_path)
    assert_same_state(again.method.state_dict(), whole.method.state_dict())
    torch.testing.assert_close(again.optimizer.state_dict(), whole.optimizer.state_dict(), rtol=0, atol=0)
    assert [row["loss"] for row in again.history] == [row["loss"] for row in whole.history]
    assert [row["lr"] for row in again.history] == [row["lr"] for row in whole.history]
    assert [row["epoch"] for row in again.history] == [1, 2, 3, 4, 5, 6]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint-previous.pt", "checkpoint.pt"]


def test_a_run_out_of_time_stops_at_a_checkpoint_and_goes_on(digits, tmp_path):
    config = small(method="multimix", epochs=3)
    for epochs in (1, 2):
        with pytest.raises(
            TimeoutError, match=rf"max_minutes is 1e-06: stopped after {epochs} of 3 epochs; run again to resume"
        ):
            train(config, digits, folder=tmp_path, max_minutes=1e-6)
    run = train(config, digits, folder=tmp_path, max_minutes=1e-6)  # nothing is left to stop before
    whole = train(config, digits)
    assert_same_state(run.method.state_dict(), whole.method.state_dict())
    with pytest.raises(TimeoutError, match="max_minutes is -3: no time is left"):
        train(config, digits, max_minutes=-3)
    with pytest.raises(ValueError, match="max_minutes must be a finite number, got nan"):
        train(config, digits, max_minutes=math.nan)


@pytest.mark.parametrize(
    ("override", "message"),
    [({"lr": 0.3}, "made with lr 0.1, not 0.3"), ({"seed": 1, "method": "mixup"}, "made with method 'erm'")],
)
def test_checkpoint_of_another_run_is_passed_over_by_name(digits, tmp_path, override, message):
    train(small(epochs=1), digits, folder=tmp_path)
    with pytest.warns(UserWarning, match=rf"checkpoint.pt was {message}.*skipped"):
        run = train(small(**{"epochs": 1, **override}), digits, folder=tmp_path)
    assert len(run.history) == 1


def test_checkpoint_of_other_code_is_passed_over(digits, tmp_path, monkeypatch):
    train(small(epochs=1), digits, folder=tmp_path)
    monkeypatch.setattr(resume_module, "code_digest", lambda: "other")
    with pytest.warns(UserWarning, match=r"made with code '[0-9a-f]{16}', not 'other': skipped"):
        train(small(epochs=1), digits, folder=tmp_path)


def test_a_compiled_run_trains_through_what_is_compiled(digits, tmp_path, monkeypatch):
    compiled = []

    def interpreted(module):  # the compiler itself is in test_compile
        compiled.append(torch.nn.Sequential())
        compiled[-1].forward = lambda *batch: module(*batch)
        return compiled[-1]

    monkeypatch.setattr(torch, "compile", interpreted)
    run = train(small(method="multimix", epochs=2), digits, compile=True, folder=tmp_path)
    assert run.step_module is compiled[0]
    plain = train(small(method="multimix", epochs=2), digits)
    assert_same_state(run.method.state_dict(), plain.method.state_dict())
    assert len(compiled) == 1


def test_loss_that_is_not_finite_stops_the_run(digits):
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at step \d+ of mixup, seed 3; a lower lr"):
        train(small(method="mixup", lr=1e200, seed=3, epochs=50), digits)


def test_training_never_sees_the_test_set(digits):
    shuffled = torch.randperm(len(digits.test), generator=torch.Generator().manual_seed(0))
    noise = torch.randint(256, digits.test.images.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    other = dataclasses.replace(digits, test=data.Split(noise, digits.test.labels[shuffled]))
    one, two = train(small(method="multimix"), digits), train(small(method="multimix"), other)
    names = one.history[0].keys() - {"seconds"}
    assert [[row[name] for name in names] for row in one.history] == [
        [row[name] for name in names] for row in two.history
    ]
    torch.testing.assert_close(one.classifier.state_dict(), two.classifier.state_dict(), rtol=0, atol=0)


def test_history_has_the_accuracy_of_the_validation_split(digits):
    run = train(small(epochs=2), digits)
    with torch.no_grad():
        predicted = run.classifier(digits.validation.images.double() / 255).argmax(1)
    correct = (predicted == digits.validation.labels).sum().item()
    assert run.history[-1]["validation_accuracy"] == pytest.approx(100 * correct / len(predicted))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_autocast_computes_in_half_and_keeps_float32_for_the_rest(digits, precision):
    run = Trainer(small(precision=precision, epochs=1), digits)
    dtypes = []
    run.classifier.encoder[-1].register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    run.classifier.head.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    train_epoch(run, 0)
    assert dtypes[1::2] == [getattr(torch, precision)] * 2  # the head, of both steps
    kept = [p.dtype for p in run.classifier.parameters()]
    kept += [value.dtype for state in run.optimizer.state.values() for value in state.values()]
    assert set(kept) == {torch.float32}


def flat(classifier):
    return torch.cat([p.detach().flatten() for p in classifier.parameters()])


@pytest.mark.parametrize("probability", [0, 1])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_in_bfloat16_is_close_to_one_in_float32(digits, method, probability):
    options = {"probability": probability} if "probability" in inspect.signature(METHODS[method]).parameters else {}
    steps = []
    for precision in ("float32", "bfloat16"):
        config = small(method=method, options=options, precision=precision, batch_size=100, epochs=1, momentum=0.0)
        run, losses = Trainer(config, digits), []
        run.method.register_forward_hook(lambda module, inputs, loss, losses=losses: losses.append(loss.detach()))
        before = flat(run.classifier)
        train_epoch(run, 0)
        steps.append((*losses, flat(run.classifier) - before))
    (exact, step), (loss, rounded) = steps
    assert loss.dtype == exact.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=5e-3, atol=0)
    # Puzzle Mix and Co-Mixup choose blocks by saliency: rounded, another block can be the most salient one.
    assert 0 < (rounded - step).norm() < (0.6 if method in ("puzzlemix", "comixup") else 0.3) * step.norm()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"method": "mutlimix"}, "method must be 'erm', 'mixup', .*, got 'mutlimix'"),
        ({"model": "resnet"}, "model must be 'preactresnet-small', .*, got 'resnet'"),
        ({"schedule": "linear"}, "schedule must be 'cosine' or 'steps', got 'linear'"),
        ({"optimizer": "adam"}, "optimizer must be 'sgd' or 'adamw', got 'adam'"),
        ({"optimizer": "adamw", "momentum": 1.0}, "momentum must be a number below 1 for adamw, got 1.0"),
        ({"milestones": [0.5]}, r"milestones must be \[0.25, 0.5, 0.75\] unless schedule is 'steps', got \[0.5\]"),
        (
            {"schedule": "steps", "milestones": [600, 900]},
            r"milestones must be increasing fractions .*, got \[600, 900\]",
        ),
        ({"schedule": "steps", "milestones": [0.75, 0.5]}, r"milestones must be increasing fractions .*, got \[0.75"),
        ({"warmup_epochs": -1}, "warmup_epochs must be an integer >= 0, got -1"),
        ({"warmup_epochs": 5, "epochs": 5}, r"warmup_epochs must be below epochs \(5\), got 5"),
        ({"precision": "half"}, "precision must be 'float32', 'float64' or 'bfloat16', got 'half'"),
        ({"epochs": 0}, "epochs must be an integer >= 1, got 0"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
        ({"labelled_per_class": 0}, "labelled_per_class must be an integer >= 1, got 0"),
        ({"lr": -0.1}, "lr must be a finite number >= 0, got -0.1"),
        ({"lr": math.nan}, "lr must be a finite number >= 0, got nan"),
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
        ({"method": "erm", "options": {"m": 3}}, "'m'"),
        ({"method": "multimix", "options": {"m": 3}}, "alpha.*num_mixtures.*'m'"),
        ({"method": "multimix", "options": {"num_mixtures": 0}}, "num_mixtures"),
        ({"method": "multimix", "options": {"alpha": -1}}, "alpha"),
        ({"method": "multimix", "options": {"alpha": [2.0, 0.5]}}, r"alpha.*\[2.0, 0.5\]"),
    ],
)
def test_impossible_configurations_are_named(override, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Config(**override)


@pytest.fixture(params=["", "from __future__ import annotations\n"], ids=["objects", "text"])
def unhooked(request):
    """The module without this suite's check of every call, its annotations objects or text."""
    module = types.ModuleType("unhooked_config")
    sys.modules[module.__name__] = module
    source = request.param + Path(config_module.__file__).read_text(encoding="utf-8")
    exec(compile(source, module.__name__, "exec", dont_inherit=True), module.__dict__)
    assert isinstance(module.Config.__annotations__["epochs"], str if request.param else type)
    yield module
    del sys.modules[module.__name__]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"epochs": True}, "epochs must be int, got True"),
        ({"epochs": 2.0}, "epochs must be int, got 2.0"),
        ({"dataset": 3}, "dataset must be str, got 3"),
        ({"batch_size": "8"}, "batch_size must be int or None, got '8'"),
        ({"epohcs": 3}, "epohcs"),
    ],
)
def test_values_of_another_type_are_named(unhooked, override, message):
    with pytest.raises(TypeError, match=message):
        unhooked.Config(**override)


def test_numbers_of_numpy_and_torch_are_numbers(unhooked, digits):
    options = {"num_mixtures": np.int64(7), "alpha": (np.float32(0.5), torch.tensor(2.0))}
    given = {"epochs": np.int64(3), "lr": np.float32(0.5), "weight_decay": torch.tensor(0.25), "options": options}
    config = unhooked.Config(method="multimix", **given)
    same = unhooked.Config(epochs=3, lr=0.5, weight_decay=0.25, options={"num_mixtures": 7, "alpha": (0.5, 2.0)})
    assert config == same
    assert unhooked.result_config(config, digits) == unhooked.result_config(same, digits)
    assert {type(config.epochs), type(config.options["num_mixtures"])} == {int}
    assert type(unhooked.Config(lr=1).lr) is float  # the same digest as 1.0


@pytest.mark.parametrize("device", ["gpu", "CPU", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "", "mps"])
def test_a_device_of_an_unknown_name_is_refused(digits, device):
    with pytest.raises(ValueError, match=f"device must be 'cpu', 'cuda' or 'cuda:<index>', got '{device}'"):
        Trainer(small(), digits, device)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device must be 'cpu' where torch finds no GPU, got 'cuda:9'"):
        devices.check_device("cuda:9")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    devices.check_device("cuda")
    devices.check_device("cuda:1")
    with pytest.raises(ValueError, match="device must be one of cuda:0 to cuda:1, got 'cuda:9'"):
        devices.check_device("cuda:9")


def test_single_precision_is_not_rounded_to_tf32(digits):
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    try:
        Trainer(small(precision="float32"), digits)
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_a_gpu_that_emulates_bfloat16_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: {"cuda:1": "Tesla T4"}[device])
    with pytest.warns(UserWarning, match="precision is 'bfloat16', which Tesla T4 emulates; 'float32' is faster there"):
        devices.warn_if_bfloat16_is_emulated("cuda:1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"checkpoint_minutes": -1}, "checkpoint_minutes must be a finite number >= 0, got -1"),
        ({"checkpoint_epochs": 0}, "checkpoint_epochs must be an integer >= 1, got 0"),
        ({"checkpoint_epochs": -1}, "checkpoint_epochs must be an integer >= 1, got -1"),
    ],
)
def test_impossible_arguments_are_refused_before_training(digits, arguments, message):
    with pytest.raises(ValueError, match=message):
        train(small(), digits, **arguments)


def test_a_checkpoint_of_another_kind_of_device_is_refused_and_kept(digits, tmp_path):
    state = train(small(epochs=1), digits).state()
    for name in ("order_generator", "augmentation_generator"):
        state[name] = torch.zeros(16, dtype=torch.uint8)  # as long as that of a GPU's generator
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state | {"device_type": "cuda"})
    checkpoints.wait()
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match="device must be 'cuda', as for the checkpoint, got 'cpu'"):
        train(small(epochs=1), digits, folder=tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("other", [(0, {"seed": 0}), (2, {"seed": 1})])
def test_processes_that_would_resume_differently_stop(digits, tmp_path, monkeypatch, other):
    train(small(epochs=2), digits, folder=tmp_path)
    identity = {"seed": 0}
    monkeypatch.setattr(trainer, "resume_identity", lambda config, dataset: identity)
    monkeypatch.setattr(distributed, "all_gather_object", lambda value: [value, other])
    run = Trainer(small(epochs=2), digits)
    run.history = [{}, {}]
    with pytest.raises(ValueError, match=f"processes must resume one run .*, got runs of 2, {other[0]} epochs"):
        trainer._resume(run, Checkpoints(None))


def test_ranks_of_several_processes_get_one_gpu_each(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    calls = []
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda backend, **named: calls.append((backend, named)))
    assert distributed.init("cuda") == "cuda:1"
    assert calls == ["cuda:1", ("nccl", {"device_id": torch.device("cuda:1")})]
    with pytest.raises(ValueError, match=r"device must be 'cuda' under torchrun, .*, got 'cuda:0'"):
        distributed.init("cuda:0")


def test_memory_is_that_of_the_training(digits, monkeypatch):
    events = []
    monkeypatch.setattr(devices, "reset_peak_memory", lambda device: events.append("reset"))
    monkeypatch.setattr(devices, "peak_memory_mib", lambda device: events.append("read") or 7.0)
    monkeypatch.setattr(trainer, "train_epoch", lambda run, epoch: events.append("epoch") or torch.zeros(2))
    assert train(small(epochs=2), digits).peak_memory_mib == 7.0
    assert events == ["reset", "epoch", "epoch", "read"]


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("notebook", [True, False])
def test_progress_moves_in_a_terminal_and_in_a_notebook(digits, monkeypatch, terminal, notebook):
    bars = []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    if notebook:
        monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.setattr(trainer, "tqdm", lambda epochs, **options: bars.append(options) or epochs)
    train(small(epochs=1), digits)
    assert bars[0]["mininterval"] == (0.1 if terminal or notebook else 300)
