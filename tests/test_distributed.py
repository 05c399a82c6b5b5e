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
from mmlib.experiments.training.config import Config
from mmlib.experiments.training.trainer import Trainer

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
QUIET = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}


@pytest.mark.parametrize("method", ["multimix", "dense_multimix_distill"])
def test_gradients_are_the_average_of_two_separate_runs(tmp_path, method):
    script = Path(__file__).with_name("gradients_of_one_step.py")
    subprocess.run([*TORCHRUN, script, tmp_path, method], check=True, capture_output=True, env=QUIET)
    ranks = [torch.load(tmp_path / f"rank{k}.pt", weights_only=True) for k in range(2)]
    assert not torch.equal(ranks[0]["images"], ranks[1]["images"])
    assert not torch.equal(ranks[0]["drawn"], ranks[1]["drawn"])  # mixtures differ
    torch.testing.assert_close(ranks[0]["gradients"], ranks[1]["gradients"], rtol=0, atol=0)
    alone = []
    for k, rank in enumerate(ranks):
        config = Config(method=method, precision="float64", batch_size=20, options={"probability": 1.0})
        run = Trainer(config, data.load("digits"))
        run.objective.cpu_generator.manual_seed(k * 1_000_000)
        run.objective.generator.manual_seed(int(torch.randint(2**62, (), generator=run.objective.cpu_generator)))
        run.objective.train()(rank["images"], rank["labels"]).backward()
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


def test_one_dead_process_stops_all_and_the_run_goes_on_afterwards(tmp_path):
    folder = tmp_path / "grid" / "digits" / "preactresnet-small" / "multimix" / "seed0"
    command = [*TORCHRUN, "-m", "mmlib", f"folder={folder}", "method=multimix", "batch_size=20", "threads=1"]
    started = subprocess.Popen(
        [*command, "epochs=100"], env=QUIET, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: (folder / "checkpoint.pt").exists(), 60)
    workers = children(started.pid)
    os.kill(workers[1], signal.SIGKILL)
    assert started.wait(timeout=60) != 0
    wait_until(lambda: not any(alive(pid) for pid in workers), 10)
    assert not (folder / "metrics.json").exists()
    subprocess.run([*command, "epochs=100"], check=True, capture_output=True, env=QUIET)
    record = runs.read(folder)
    assert [row["epoch"] for row in record.history] == list(range(1, 101))
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    own = [process["buffers"] for process in state["processes"]]
    name = "classifier.encoder.1.0.norm1.running_mean"
    assert not torch.equal(own[0][name], own[1][name])  # each process has its own BatchNorm statistics
    run = Trainer(Config(method="multimix", batch_size=20, epochs=100), data.load("digits"))
    run.restore(state)  # one process reads what two have written
    torch.testing.assert_close(dict(run.objective.named_buffers()), own[0], rtol=0, atol=0)


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
