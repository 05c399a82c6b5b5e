"""What befalls a grid while it runs: real Snakemake, papermill and kernels, killed, starved and disturbed."""

import signal
import subprocess
import time

import psutil
import pytest
import torch

from mmlib.experiments import runs
from tests.clones import CELL, grid_of, make_clone, run_alone

pytestmark = [pytest.mark.slow, pytest.mark.faults]


def wait_until(happened, seconds=600):
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
    return found


def processes(driver, *words):
    """Processes below a driver whose command has all the words."""
    found = psutil.Process(driver.pid).children(recursive=True)
    return [process for process in found if all(word in " ".join(command_of(process)) for word in words)]


def command_of(process):
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def kernel_of(driver, clone, variant):
    """The kernel of a cell: the process that holds the lock on its folder."""
    (papermill,) = processes(driver, "bin/papermill", f"runs/tiny/{CELL.format(variant)}/notebook.ipynb")
    (kernel,) = [child for child in papermill.children() if "ipykernel_launcher" in " ".join(child.cmdline())]
    return kernel


def assert_same_run(folder, other):
    """Two runs have the same numbers to the last digit; how long they took is left out."""
    one, two = runs.load_run(folder), runs.load_run(other)
    assert one.metrics == two.metrics
    assert [row["loss"] for row in one.history] == [row["loss"] for row in two.history]


def finish(clone, *options):
    """Run the grid to its end; return its exit code and what it says."""
    with grid_of(clone, *options) as driver:
        said, _ = driver.communicate(timeout=1200)
    return driver.returncode, said


def test_a_killed_grid_leaves_no_process_and_goes_on_by_the_same_command(tmp_path):
    clone = make_clone(tmp_path, {"erm": {"method": "erm", "epochs": 1000}})
    folder = clone / "runs" / "tiny" / CELL.format("erm")
    with grid_of(clone, "--cores", "1") as driver:
        wait_until((folder / "checkpoint-previous.pt").exists)
        below = processes(driver)
        assert any("ipykernel_launcher" in " ".join(command_of(process)) for process in below)
        driver.kill()
    _, alive = psutil.wait_procs(below, timeout=10)
    assert not alive
    assert not (folder / "metrics.json").exists()
    epochs = len(torch.load(folder / "checkpoint.pt", weights_only=True)["history"])
    assert 0 < epochs < 1000

    code, said = finish(clone, "--cores", "1")
    assert code == 0, said
    assert "tiny: 1 of 1 cells are recorded" in said
    assert_same_run(folder, run_alone(clone, "erm", method="erm", epochs=1000))


def test_a_dead_kernel_and_a_cell_out_of_time_are_reported_and_the_others_finish(tmp_path):
    """Meanwhile the same grid is started a second time, and the third cell loses its checkpoint."""
    variants = {
        "dies": {"method": "erm", "epochs": 10**6},
        "late": {"method": "erm", "epochs": 10**6, "resources": {"minutes": 1}},
        "robbed": {"method": "mixup", "epochs": 1000},
    }
    clone = make_clone(tmp_path, variants)
    folder = {name: clone / "runs" / "tiny" / CELL.format(name) for name in variants}
    with grid_of(clone, "--cores", "3") as driver:
        wait_until((folder["robbed"] / "checkpoint-previous.pt").exists)
        code, refused = finish(clone)
        assert (code, refused) == (
            1,
            f"record: grid tiny is under way in this folder already, in process {driver.pid}\n",
        )
        for file in folder["robbed"].glob("checkpoint*.pt"):
            file.unlink()
        wait_until((folder["dies"] / "checkpoint.pt").exists)
        kernel_of(driver, clone, "dies").send_signal(signal.SIGKILL)
        said, _ = driver.communicate(timeout=1200)
    assert driver.returncode == 1, said
    assert "tiny: 1 of 3 cells are recorded" in said
    summary = said[said.index("Ran 1 cell in ") :]
    for name, reason in {
        "dies": "DeadKernelError: Kernel died",
        "late": "TimeoutError: the cell ran longer than 1 minutes, which its resources allow",
    }.items():
        assert f"Failed: tiny {name} seed 0: " in summary
        assert reason in summary
        assert f"see build/logs/tiny/{CELL.format(name).replace('/', '-')}.log" in summary
        assert f"see runs/tiny/{CELL.format(name)}/notebook.ipynb" in summary
        again = "snakemake --cores 1 --nolock --rerun-incomplete"
        assert f"again: {again} runs/tiny/{CELL.format(name)}/metrics.json" in summary
        assert (folder[name] / "checkpoint.pt").exists()
        assert not (folder[name] / "metrics.json").exists()
    assert_same_run(folder["robbed"], run_alone(clone, "robbed", method="mixup", epochs=1000))


def test_a_full_disk_ends_a_cell_in_one_line(tmp_path):
    clone = make_clone(tmp_path, {"erm": {"method": "erm", "epochs": 3}})
    folder = clone / "runs" / "tiny" / CELL.format("erm")
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "none", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk takes root")
    try:
        code, said = finish(clone, "--cores", "1")
        assert code == 1, said
        assert "tiny: 0 of 1 cells are recorded" in said
        # It may be the checkpoint or the executed notebook that finds no place.
        assert "could not be written" in said or "OSError: [Errno 28] No space left on device" in said
        assert not (folder / "metrics.json").exists()
    finally:
        subprocess.run(["umount", folder], check=True)
    code, said = finish(clone, "--cores", "1")
    assert code == 0, said
