"""A grid through a real Slurm of two nodes: jobs fail, run late, are preempted, and equal the same runs alone."""

import importlib.util

import pytest
import yaml

from mmlib.experiments import runs
from tests.clones import CELL, grid_of, make_clone, run_alone
from tests.cluster import slurm
from tests.test_batch_faults import assert_same_run, wait_until

VARIANTS = {
    "long": {"method": "multimix", "epochs": 1500},
    "late": {"method": "erm", "epochs": 10**6, "resources": {"minutes": 1}},
    "short": {"method": "erm", "epochs": 20},
    "bad": {"method": "mixup", "epochs": 2, "lr": 1e30},
}


@pytest.fixture
def clone(tmp_path):
    """A clone beside the files of a running cluster."""
    if reason := slurm.why_not():
        pytest.skip(reason)
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("snakemake-executor-plugin-slurm is missing: pip install '.[cluster]'")
    clone = make_clone(tmp_path / "clone", VARIANTS)
    content = yaml.safe_load((clone / "experiments.yml").read_text())
    content["tiny"]["settings"]["resources"] = {"minutes": 20, "memory_mib": 1500}
    (clone / "experiments.yml").write_text(yaml.safe_dump(content, sort_keys=False))
    # What the profile says in its last lines, for a cluster that keeps no accounts; and a test's short pauses.
    profile = clone / "profiles" / "slurm" / "config.yaml"
    own = "slurm-no-account: true\nslurm-status-command: squeue\ndefault-resources: [slurm_partition=main]\n"
    profile.write_text(profile.read_text() + own + "seconds-between-status-checks: 5\n")
    with slurm.cluster(tmp_path / "slurm"):
        yield clone


@pytest.mark.cluster
def test_a_grid_runs_through_slurm(clone):
    folder = {name: clone / "runs" / "tiny" / CELL.format(name) for name in VARIANTS}
    with grid_of(clone, "--profile", "profiles/slurm") as driver:
        wait_until((folder["long"] / "checkpoint-previous.pt").exists)
        (long,) = [job for job in slurm.jobs() if "long" in job["comment"]]
        asked = slurm.ask("scontrol", "show", "job", long["id"])
        assert "MinMemoryNode=1500M" in asked
        assert "TimeLimit=00:25:00" in asked
        slurm.ask("scontrol", "requeue", long["id"])  # as a preemption does
        wait_until(lambda: next(job for job in slurm.jobs() if job["id"] == long["id"])["state"] == "PENDING")
        assert not (folder["long"] / "metrics.json").exists()
        slurm.ask("scontrol", "update", f"JobId={long['id']}", "StartTime=now")
        said, _ = driver.communicate(timeout=1500)
    assert driver.returncode == 1, said
    assert "tiny: 2 of 4 cells are recorded" in said
    for name, reason in {
        "late": "TimeoutError: the cell ran longer than 1 minutes, which its resources allow",
        "bad": "FloatingPointError: the loss is nan",
    }.items():
        summary = said[said.index("Ran 2 cells in ") :]
        assert f"Failed: tiny {name} seed 0: {reason}" in summary
        assert f"see {folder[name].relative_to(clone)}/notebook.ipynb" in summary
        assert not (folder[name] / "metrics.json").exists()

    submitted = {name: job for name in VARIANTS for job in slurm.jobs() if name in job["comment"]}
    assert {name: job["state"] for name, job in submitted.items()} == {
        "long": "COMPLETED",
        "late": "FAILED",
        "short": "COMPLETED",
        "bad": "FAILED",
    }
    assert {job["node"] for job in submitted.values()} == set(slurm.NODES)
    assert "Restarts=1" in slurm.ask("scontrol", "show", "job", long["id"])
    for name in ("long", "short"):
        settings = {key: value for key, value in VARIANTS[name].items() if key != "resources"}
        assert_same_run(folder[name], run_alone(clone, name, **settings))
        assert len(runs.load_run(folder[name]).history) == VARIANTS[name]["epochs"]
