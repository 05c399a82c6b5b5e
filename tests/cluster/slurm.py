"""A real Slurm on this machine: munge, slurmctld and a slurmd for each of two nodes, all below one folder."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
# The only place where every one of Slurm's programs looks, also those inside a job.
CONFIGURATION = Path("/etc/slurm/slurm.conf")
NODES = ("one", "two")
TEMPLATE = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
MinJobAge=900
KillWait=5
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=4000 State=UNKNOWN
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP
"""


def why_not() -> str | None:
    """Say why no Slurm can be started here; None where one can."""
    if os.getuid() != 0:
        return "daemons of Slurm take root"
    if missing := [program for program in PROGRAMS if not shutil.which(program)]:
        return f"{missing[0]} is missing: apt-get install slurm-wlm munge"
    forget_a_killed_one()
    return f"{CONFIGURATION} is there: this machine has a Slurm of its own" if CONFIGURATION.exists() else None


def forget_a_killed_one() -> None:
    """Remove the configuration that a killed test has left; its daemons have ended with it."""
    if not CONFIGURATION.is_symlink():
        return
    is_ours = not CONFIGURATION.exists() or "ClusterName=test\n" in CONFIGURATION.read_text()
    if is_ours and "is UP" not in ask("scontrol", "ping"):
        CONFIGURATION.unlink()


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """Start a cluster, wait until both nodes are idle, and stop its daemons at the end.

    Args:
        folder: of its files; on its path nobody but root may write.
    """
    with ExitStack() as stack:
        for name in ("munge", "state", *(f"spool-{node}" for node in NODES)):
            (folder / name).mkdir(parents=True)
        ports = [stack.enter_context(socket.socket()) for _ in range(3)]
        for port in ports:
            port.bind(("127.0.0.1", 0))
        numbers = [port.getsockname()[1] for port in ports]
        for port in ports:
            port.close()
        host = socket.gethostname().split(".")[0]
        (folder / "slurm.conf").write_text(TEMPLATE.format(folder=folder, host=host, ports=numbers))
        CONFIGURATION.parent.mkdir(exist_ok=True)
        CONFIGURATION.symlink_to(folder / "slurm.conf")
        stack.callback(CONFIGURATION.unlink)
        start_munge(stack, folder / "munge")
        daemon(stack, folder / "slurmctld.txt", "slurmctld", "-D")
        for node in NODES:
            daemon(stack, folder / f"{node}.txt", "slurmd", "-D", "-N", node)
        deadline = time.monotonic() + 60
        while (states := ask("sinfo", "--noheader", "--Node", "--format=%T").split()) != ["idle"] * len(NODES):
            if time.monotonic() > deadline:
                logs = "\n".join(log.read_text()[-2000:] for log in sorted(folder.glob("*.log")))
                raise TimeoutError(f"both nodes must be idle within a minute, got {states}\n{logs}")
            time.sleep(0.5)
        stack.callback(end_jobs)
        yield


def end_jobs() -> None:
    """Cancel what a failed test has left behind, before the daemons go."""
    ask("scancel", "--me")
    deadline = time.monotonic() + 60
    while any(job["state"] not in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT") for job in jobs()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no job must be left after a minute, got {jobs()}")
        time.sleep(0.5)


def start_munge(stack: ExitStack, folder: Path) -> None:
    key = folder / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    files = [
        f"--{name}={folder / file}"
        for name, file in {
            "key-file": "key",
            "socket": "socket",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }.items()
    ]
    daemon(stack, folder / "words", "munged", "--foreground", "--force", *files)
    deadline = time.monotonic() + 20
    while not (folder / "socket").exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"munged must open its socket, it said: {(folder / 'words').read_text()[-500:]}")
        time.sleep(0.1)


def daemon(stack: ExitStack, log: Path, *command: str) -> None:
    """Start a daemon in the foreground, and stop it when the stack ends, or when this process is killed."""
    with log.open("w") as words:
        with_us = ["setpriv", "--pdeathsig", "TERM", *command]
        process = subprocess.Popen(with_us, stdout=words, stderr=subprocess.STDOUT)
    stack.callback(process.wait)
    stack.callback(process.terminate)


def ask(*command: str) -> str:
    """Run one of Slurm's commands and return what it says."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def jobs() -> list[dict[str, str]]:
    """All jobs of the last minutes: of each its number, state, node and comment."""
    names = ("id", "state", "node", "comment")
    lines = ask("squeue", "--states=all", "--noheader", "--format=%i|%T|%N|%k").splitlines()
    return [dict(zip(names, line.split("|"))) for line in lines]
