"""Two processes against two separate runs, and what happens when one of them dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mmlib.experiments import data, runs
from mmlib.experiments.arguments import to_arguments
from mmlib.experiments.methods import METHODS
from mmlib.experiments.seeding import spawn_seeds
from mmlib.experiments.training.checkpoints import classifier_weights
from mmlib.experiments.training.config import Config
from mmlib.experiments.training.trainer import Trainer

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
QUIET = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["multimix", "dense_multimix_distill"])
def test_gradients_are_the_average_of_two_separate_runs(tmp_path, method):
    script = Path(__file__).with_name("scripts") / "gradients_of_one_step.py"
    subprocess.run([*TORCHRUN, script, tmp_path, method], check=True, capture_output=True, env=QUIET)
    ranks = [torch.load(tmp_path / f"rank{k}.pt", weights_only=True) for k in range(2)]
    assert not torch.equal(ranks[0]["images"], ranks[1]["images"])
    assert not torch.equal(ranks[0]["drawn"], ranks[1]["drawn"])  # mixtures differ
    torch.testing.assert_close(ranks[0]["gradients"], ranks[1]["gradients"], rtol=0, atol=0)
    alone = []
    for k, rank in enumerate(ranks):
        config = Config(method=method, precision="float64", batch_size=20, options={"probability": 1.0})
        run = Trainer(config, data.load("digits"))
        run.method = METHODS[method](run.classifier, seed=spawn_seeds(0, rank=k).method, probability=1.0)
        run.method.train()(rank["images"], rank["labels"]).backward()
        alone.append({name: p.grad for name, p in run.classifier.named_parameters()})
        torch.testing.assert_close(dict(run.classifier.named_buffers()), rank["buffers"])  # each its own BatchNorm
    for name, gradient in ranks[0]["gradients"].items():
        torch.testing.assert_close(gradient, (alone[0][name] + alone[1][name]) / 2)
    assert not torch.allclose(alone[0]["head.weight"], alone[1]["head.weight"])


def test_processes_share_an_epoch_without_overlap():
    split = data.load("digits").train
    parts = []
    for k in range(2):
        generator = torch.Generator().manual_seed(3)
        batches = data.Batches(split, 10, padding=1, flip=True, generator=generator, shard=(k, 2))
        assert len(batches) == 5
        parts.append(torch.cat([images for images, _ in batches]))
    alone = data.Batches(split, 100, padding=1, flip=True, generator=torch.Generator().manual_seed(3))
    ((whole, _),) = alone
    torch.testing.assert_close(torch.stack(parts, dim=1).flatten(0, 1), whole, rtol=0, atol=0)


def command(folder, **settings):
    shared = {"method": "multimix", "batch_size": 20, "threads": 1, "attacked_per_class": 0, "out_sets": []}
    return [*TORCHRUN, "-m", "mmlib.experiments", *to_arguments({"folder": str(folder)} | shared | settings)]


@pytest.mark.slow
def test_two_and_four_processes_train_like_one_of_the_whole_mini_batch(tmp_path):
    """Where nothing is drawn or normalised per process: ERM and a network without batch normalisation."""
    weights, losses = {}, {}
    for processes in (1, 2, 4):
        folder = tmp_path / str(processes) / "digits" / "vit-tiny" / "erm" / "seed0"
        torchrun = [*TORCHRUN[:-1], str(processes)]
        settings = {"method": "erm", "model": "vit-tiny", "precision": "float64", "epochs": 3, "lr": 0.01}
        arguments = command(folder, **settings, batch_size=20 // processes)[len(TORCHRUN) :]
        subprocess.run([*torchrun, *arguments], check=True, capture_output=True, env=QUIET)
        state = torch.load(folder / "checkpoint.pt", weights_only=True)
        weights[processes] = classifier_weights(state)
        losses[processes] = [row["loss"] for row in state["history"]]
    for processes in (2, 4):
        torch.testing.assert_close(weights[processes], weights[1], rtol=1e-9, atol=1e-11)
        assert losses[processes] == pytest.approx(losses[1], rel=1e-9)
    assert losses[1][-1] < losses[1][0]


@pytest.mark.slow
def test_one_dead_process_stops_all_and_the_run_resumes_afterwards(tmp_path):
    folder = tmp_path / "grid" / "digits" / "preactresnet-small" / "multimix" / "seed0"
    started = subprocess.Popen(
        command(folder, epochs=100), env=QUIET, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: (folder / "checkpoint.pt").exists(), 300)
    workers = children(started.pid)
    os.kill(workers[1], signal.SIGKILL)
    assert started.wait(timeout=300) != 0
    wait_until(lambda: not any(alive(pid) for pid in workers), 60)
    assert not (folder / "metrics.json").exists()
    subprocess.run(command(folder, epochs=100), check=True, capture_output=True, env=QUIET)
    record = runs.load_run(folder)
    assert [row["epoch"] for row in record.history] == list(range(1, 101))
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    own = [process["buffers"] for process in state["processes"]]
    name = "classifier.encoder.1.0.norm1.running_mean"
    assert not torch.equal(own[0][name], own[1][name])  # each process has its own BatchNorm statistics
    run = Trainer(Config(method="multimix", batch_size=20, epochs=100), data.load("digits"))
    run.restore(state)  # one process reads what two have written
    torch.testing.assert_close(dict(run.method.named_buffers()), own[0], rtol=0, atol=0)


@pytest.mark.slow
def test_a_run_out_of_time_is_saved_whole_and_reported_once(tmp_path):
    """Even where writing the checkpoint takes longer than the other process takes to end."""
    folder = tmp_path / "grid" / "digits" / "preactresnet-small" / "multimix" / "seed0"
    slowly = tmp_path / "slowly.py"
    slowly.write_text(
        "import runpy, sys, time\n"
        "from mmlib.experiments.training.checkpoints import Checkpoints\n"
        "write = Checkpoints._write\n"
        "Checkpoints._write = lambda self, state: (time.sleep(3), write(self, state))\n"
        "runpy.run_module('mmlib.experiments', run_name='__main__')\n"
    )
    arguments = command(folder, epochs=4, max_minutes=1e-6)
    module = arguments.index("-m", len(TORCHRUN))
    slow = [*arguments[:module], str(slowly), *arguments[module + 2 :]]
    stopped = subprocess.run(slow, capture_output=True, env=QUIET | {"PYTHONPATH": ":".join(sys.path)}, text=True)
    assert stopped.returncode == 1
    assert stopped.stderr.count("mmlib: max_minutes is 1e-06: stopped after 1 of 4 epochs; run again to resume") == 1
    assert "destroy_process_group" not in stopped.stderr
    assert len(torch.load(folder / "checkpoint.pt", weights_only=True)["history"]) == 1
    assert not (folder / "checkpoint.pt.partial").exists()


@pytest.mark.slow
def test_processes_without_a_shared_folder_do_not_resume(tmp_path):
    for k in range(2):
        (tmp_path / str(k)).mkdir()
    script = Path(__file__).with_name("train_in_own_folder.py")
    subprocess.run([*TORCHRUN, script, tmp_path, "2"], check=True, capture_output=True, env=QUIET)
    assert not list((tmp_path / "1").iterdir())  # rank 0 alone writes
    again = subprocess.run([*TORCHRUN, script, tmp_path, "2"], capture_output=True, env=QUIET, text=True)
    assert again.returncode != 0
    words = "processes must resume one run from a folder that they share, got runs of 2, 0 epochs"
    assert again.stderr.count(f"ValueError: {words}") >= 1


def wait_until(happened, seconds):
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
