"""A grid through a real Slurm of two nodes: jobs fail, run late, are preempted, and equal the same runs alone."""

import importlib.util

import numpy as np
import psutil
import pytest
import torch
import yaml

from mmlib.experiments import data, runs
from mmlib.experiments.training.checkpoints import Checkpoints, classifier_weights
from tests.clones import CELL, grid_of, make_clone, run_alone
from tests.cluster import slurm
from tests.test_batch_faults import assert_same_run, wait_until

pytestmark = pytest.mark.cluster
VARIANTS = {
    "long": {"method": "multimix", "epochs": 800},
    "late": {"method": "erm", "epochs": 10**6, "resources": {"minutes": 1}},
    "short": {"method": "erm", "epochs": 20},
    "bad": {"method": "mixup", "epochs": 2, "lr": 1e30},
}


@pytest.fixture(autouse=True)
def can_start():
    if reason := slurm.why_not():
        pytest.skip(reason)
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("snakemake-executor-plugin-slurm is missing: pip install '.[cluster]'")


@pytest.fixture
def cluster(tmp_path):
    with slurm.cluster(tmp_path / "slurm"):
        yield


def clone_for_slurm(folder, variants, **settings):
    """A clone whose profile says what a cluster without accounts takes, and whose grid asks for little."""
    clone = make_clone(folder, variants)
    content = yaml.safe_load((clone / "experiments.yml").read_text())
    content["tiny"]["settings"] |= {"resources": {"minutes": 20, "memory_mib": 1500}} | settings
    (clone / "experiments.yml").write_text(yaml.safe_dump(content, sort_keys=False))
    profile = clone / "profiles" / "slurm" / "config.yaml"
    own = "slurm-no-account: true\nslurm-status-command: squeue\ndefault-resources: [slurm_partition=main]\n"
    profile.write_text(profile.read_text() + own + "seconds-between-status-checks: 5\n")
    return clone


def job_of(variant):
    """The newest job of a cell."""
    return max((job for job in slurm.jobs() if f"_{variant}_" in job["comment"]), key=lambda job: int(job["id"]))


def epochs_of(folder):
    """Epochs of the newest whole checkpoint; the file is missing for a moment whenever a new one takes its place."""
    state = Checkpoints(folder).load()
    return len(state["history"]) if state else 0


def test_the_daemons_end_also_after_a_failure(tmp_path):
    daemons = []

    def fail():
        with slurm.cluster(tmp_path / "slurm"):
            daemons.extend(psutil.Process().children(recursive=True))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(daemons) >= 4  # munged, slurmctld and a slurmd for each node
    assert not psutil.wait_procs(daemons, timeout=10)[1]
    assert not slurm.CONFIGURATION.exists()


def test_a_grid_runs_through_slurm(cluster, tmp_path):
    clone = clone_for_slurm(tmp_path / "clone", VARIANTS)
    folder = {name: clone / "runs" / "tiny" / CELL.format(name) for name in VARIANTS}
    with grid_of(clone, "--profile", "profiles/slurm") as driver:
        wait_until(lambda: {name for name in VARIANTS for job in slurm.jobs() if name in job["comment"]} == {*VARIANTS})
        late, long = job_of("late")["id"], job_of("long")["id"]
        asked = slurm.ask("scontrol", "show", "job", late)
        assert "MinMemoryNode=1500M" in asked
        assert "TimeLimit=00:01:00" in asked
        slurm.ask("scontrol", "update", f"JobId={late}", "TimeLimit=30")  # a slow machine needs more to begin
        wait_until((folder["late"] / "checkpoint-previous.pt").exists)
        slurm.ask("scontrol", "update", f"JobId={late}", "TimeLimit=1")

        wait_until((folder["long"] / "checkpoint-previous.pt").exists)
        slurm.ask("scontrol", "requeue", long)  # as a preemption does
        wait_until(lambda: job_of("long")["state"] == "PENDING")
        assert not (folder["long"] / "metrics.json").exists()
        slurm.ask("scontrol", "update", f"JobId={long}", "StartTime=now")
        said, _ = driver.communicate(timeout=1500)
    assert driver.returncode == 1, said
    assert "tiny: 2 of 4 cells are recorded" in said
    summary = said[said.index("Ran 2 cells in ") :]
    for name, reason in {
        "late": "TIMEOUT: the cluster ended the job; a next call resumes it",
        "bad": "FloatingPointError: the loss is nan",
    }.items():
        assert f"Failed: tiny {name} seed 0: {reason}" in summary
        assert f"see {folder[name].relative_to(clone)}/notebook.ipynb" in summary
        assert not (folder[name] / "metrics.json").exists()

    submitted = {name: job_of(name) for name in VARIANTS}
    assert {name: job["state"] for name, job in submitted.items()} == {
        "long": "COMPLETED",
        "late": "TIMEOUT",
        "short": "COMPLETED",
        "bad": "FAILED",
    }
    assert {job["node"] for job in submitted.values()} == set(slurm.NODES)
    assert "Restarts=1" in slurm.ask("scontrol", "show", "job", long)
    for name in ("long", "short"):
        assert_same_run(folder[name], run_alone(clone, name, **VARIANTS[name]))
        assert len(runs.load_run(folder[name]).history) == VARIANTS[name]["epochs"]

    reached = epochs_of(folder["late"])
    with grid_of(clone, "--profile", "profiles/slurm"):
        wait_until(lambda: job_of("late")["id"] != late)
        slurm.ask("scontrol", "update", f"JobId={job_of('late')['id']}", "TimeLimit=30")
        wait_until(lambda: epochs_of(folder["late"]) > reached)


def test_a_cell_of_two_nodes_trains_like_one_process_and_each_node_has_its_data(cluster, tmp_path, monkeypatch):
    """Where nothing is drawn or normalised per process, as in `test_distributed`."""
    erm = {"method": "erm", "model": "vit-tiny", "precision": "float64", "epochs": 3, "lr": 0.01}
    spread = {"spread": erm | {"processes": 2, "nodes": 2, "batch_size": 10, "stage": "data"}}
    clone = clone_for_slurm(tmp_path / "clone", spread, dataset="data/digits.npz")
    write_digits(clone / "data" / "digits.npz")
    monkeypatch.setenv("NODE_STORAGE", f"{tmp_path}/disks/$SLURMD_NODENAME")
    with grid_of(clone, "--profile", "profiles/slurm") as driver:
        said, _ = driver.communicate(timeout=1500)
    assert driver.returncode == 0, said
    job = job_of("spread")
    assert (job["state"], set(job["node"].split(","))) == ("COMPLETED", set(slurm.NODES))
    copies = [path.relative_to(tmp_path / "disks") for path in (tmp_path / "disks").rglob("*.npz")]
    assert {copy.parts[0] for copy in copies} == set(slurm.NODES)
    assert len(copies) == len(slurm.NODES)

    folder = clone / "runs" / "tiny" / "digits" / "vit-tiny" / "spread" / "seed0"
    assert runs.load_run(folder).environment["processes"] == 2
    alone = run_alone(clone, "alone", **erm, batch_size=20, dataset="data/digits.npz")
    states = [torch.load(path / "checkpoint.pt", weights_only=True) for path in (folder, alone)]
    of_two, of_one = [classifier_weights(state) for state in states]
    torch.testing.assert_close(of_two, of_one, rtol=1e-9, atol=1e-11)
    losses = [[row["loss"] for row in state["history"]] for state in states]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def write_digits(path):
    digits = data.load("digits")
    arrays = {}
    for name, split in digits.splits().items():
        short = {"validation": "val"}.get(name, name)
        arrays |= {f"{short}_images": split.images[:, 0].numpy(), f"{short}_labels": split.labels.numpy()}
    path.parent.mkdir()
    np.savez(path, **arrays)
