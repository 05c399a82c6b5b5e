"""Run Snakemake in this process, and say in one line how far it is.

Snakemake decides what there is to do and does it; this module is its logger. In a terminal the line moves, elsewhere a
plain one comes now and then.
"""

import fcntl
import os
import re
import shlex
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from logging import LogRecord
from pathlib import Path

import snakemake.cli
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

from mmbook.progress import duration

LOCKS = Path("build/locks")
NAMES = {"cell": "cells", "chapter": "chapters"}
# What helps against an end that Slurm reports.
HINTS = {
    "TIMEOUT": "a next call resumes it, for another `minutes` of its resources",
    "OUT_OF_MEMORY": "its resources need more `memory_mib`",
}
PLAIN_SECONDS = 300  # between two lines where no terminal shows one that moves


def title(rule: str, wildcards: dict) -> str:
    """Name a job by what it makes, such as `embedded multimix seed 0` or `chapter 13-cost`."""
    if rule == "cell":
        return "{grid} {variant} seed {seed}".format(**wildcards)
    return f"chapter {wildcards['chapter']}" if rule == "chapter" else f"the {rule}"


class Progress:
    """What of a build is done, what runs, what failed, and how long the rest takes."""

    def __init__(self, cores: int, now: float):
        self.cores, self.start = cores, now
        self.total, self.done, self.seconds = Counter(), Counter(), Counter()
        self.rules, self.titles, self.logs, self.outputs = {}, {}, {}, {}
        self.running: dict[int, float] = {}
        self.failed: dict[int, str] = {}  # and why

    def plan(self, counts: dict[str, int]) -> None:
        """Take what Snakemake found to do: the number of jobs of every rule."""
        self.total.update({rule: count for rule, count in counts.items() if rule != "total"})

    def introduce(self, job: int, rule: str, wildcards: dict, logs: list[str], outputs: list[str]) -> None:
        """Take a job's name and files, before it starts."""
        self.rules[job], self.titles[job] = rule, title(rule, wildcards)
        self.logs[job], self.outputs[job] = logs, outputs

    def begin(self, job: int, now: float) -> None:
        """Count a job as running."""
        self.running[job] = now

    def finish(self, job: int, now: float) -> None:
        """Count a job as done."""
        begun = self.running.pop(job, now)
        self.done[self.rules[job]] += 1
        self.seconds[self.rules[job]] += now - begun

    def fail(self, job: int, words: str = "") -> str:
        """Count a job as failed, and return why: as the cluster's words or its log say."""
        self.running.pop(job, None)
        self.failed[job] = end_by_cluster(words) or reason(self.logs[job])
        return self.failed[job]

    def left(self, now: float) -> float | None:
        """Return the seconds that the rest takes, from the mean of what is done; None before anything is."""
        if not self.done:
            return None
        mean_of_all = self.seconds.total() / self.done.total()
        work = 0.0
        for rule, total in self.total.items():
            mean = self.seconds[rule] / self.done[rule] if self.done[rule] else mean_of_all
            work += mean * (total - self.done[rule])
        work -= sum(min(now - begun, work) for begun in self.running.values())
        return max(work, 0.0) / self.cores

    def line(self, now: float) -> str:
        """Say how far the build is.

        >>> progress = Progress(cores=1, now=0.0)
        >>> progress.plan({"cell": 2, "chapter": 1, "total": 3})
        >>> progress.introduce(1, "cell", {"grid": "embedded", "variant": "erm", "seed": "0"}, [], [])
        >>> progress.begin(1, 0.0)
        >>> progress.finish(1, 30.0)
        >>> progress.line(30.0)
        '1 of 2 cells, 0 of 1 chapters; 30 s so far, about 60 s left'
        """
        counts = [f"{self.done[rule]} of {self.total[rule]} {NAMES[rule]}" for rule in NAMES if self.total[rule]]
        parts = [", ".join(counts)] if counts else []
        if self.failed:
            parts.append(f"{len(self.failed)} failed")
        if self.running:
            parts.append("running " + ", ".join(self.titles[job] for job in self.running))
        left = self.left(now)
        times = f"{duration(now - self.start)} so far" + (f", about {duration(left)} left" if left else "")
        return "; ".join([*parts, times])

    def summary(self, now: float) -> list[str]:
        """Say what was run, and what failed and why."""
        counts = [f"{n} {rule if n == 1 else NAMES[rule]}" for rule in NAMES if (n := self.done[rule])]
        lines = [
            f"Ran {' and '.join(counts)} in {duration(now - self.start)}." if counts else "Ran no cell and no chapter."
        ]
        failed = {job: why for job, why in self.failed.items() if not was_stopped(why)}
        for job, why in failed.items():
            lines += [f"Failed: {self.titles[job]}: {why}", *kept(self.logs[job], self.outputs[job])]
            if self.rules[job] == "cell":
                target = shlex.quote(self.outputs[job][0])
                lines.append(f"  again: snakemake --cores 1 --nolock --rerun-incomplete {target}")
        if stopped := len(self.failed) - len(failed):
            lines.append(f"Stopped before the end, and resumed by the next call: {stopped}.")
        skipped = self.total.total() - self.done.total() - len(self.failed)
        if failed and skipped:
            lines.append(f"Not begun, for they need what failed: {skipped}.")
        return lines


def reason(logs: list[str]) -> str:
    """Return the last line of a job's log, which says why it failed."""
    texts = (Path(log).read_text(encoding="utf-8") for log in logs if Path(log).exists())
    lines = [line for text in texts for line in text.split("\n") if line.strip()]
    return lines[-1].strip()[:200] if lines else "it left no log"


def end_by_cluster(words: str) -> str | None:
    """Return why Slurm ended a job, from the executor's words; None where the job failed by itself or was cancelled.

    >>> end_by_cluster("SLURM-job '7' failed, SLURM status is: 'TIMEOUT'. Reason: None.")
    'TIMEOUT: the cluster ended the job; a next call resumes it, for another `minutes` of its resources'
    """
    state = re.search(r"SLURM status is: '(\w+)'", words)
    if state is None or state[1] in ("FAILED", "CANCELLED"):
        return None
    return "; ".join(filter(None, [f"{state[1]}: the cluster ended the job", HINTS.get(state[1])]))


def was_stopped(reason: str) -> bool:
    """Say whether a job was stopped from outside, which is no failure of its own.

    >>> was_stopped("Interrupted: by SIGTERM"), was_stopped("ValueError: alpha must be > 0")
    (True, False)
    """
    return reason.startswith("Interrupted:") or "max_minutes is" in reason


def kept(logs: list[str], outputs: list[str]) -> list[str]:
    """Say where the log is, and the notebook with its traceback: beside the log, or a cell's beside its output."""
    files = [Path(log) for log in logs] + [Path(log).with_suffix(".ipynb") for log in logs]
    files += [Path(output).with_name("notebook.ipynb") for output in outputs]
    return [f"  see {file}" for file in files if file.exists()]


class LogHandler(LogHandlerBase):
    """Turn Snakemake's events into one line; Snakemake finds it by this name."""

    writes_to_stream, writes_to_file = True, False
    has_filter = has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self.progress = Progress(cores=1, now=time.monotonic())
        self.moves = sys.stdout.isatty()
        self.shown = self.progress.start
        self.errors: list[str] = []
        self.lock = threading.RLock()
        self.ended = threading.Event()
        if self.moves:
            threading.Thread(target=self.tick, daemon=True).start()

    def tick(self) -> None:
        while not self.ended.wait(1):
            self.show()

    def emit(self, record: LogRecord) -> None:
        """Take one event."""
        now, event, progress = time.monotonic(), getattr(record, "event", None), self.progress
        with self.lock:
            if event == LogEvent.RUN_INFO:
                progress.plan(record.stats)
            elif event == LogEvent.RESOURCES_INFO and getattr(record, "cores", None):
                progress.cores = record.cores
            elif event == LogEvent.JOB_INFO:
                wildcards, logs, outputs = record.wildcards or {}, list(record.log or []), list(record.output or [])
                progress.introduce(record.jobid, record.rule_name, wildcards, logs, outputs)
            elif event == LogEvent.JOB_STARTED:
                for job in record.jobs:
                    progress.begin(job, now)
            elif event == LogEvent.JOB_FINISHED:
                progress.finish(record.job_id, now)
            elif event == LogEvent.JOB_ERROR:
                why = progress.fail(record.jobid, record.rule_msg or "")
                if not was_stopped(why):
                    say(f"Failed: {progress.titles[record.jobid]}: {why}")
            elif event in (None, LogEvent.ERROR) and record.levelname in ("ERROR", "CRITICAL"):
                self.errors.append(str(record.msg).strip())
        if event in (LogEvent.RUN_INFO, LogEvent.JOB_FINISHED):
            self.show()

    def show(self) -> None:
        """Show how far the build is, over the line before in a terminal."""
        with self.lock:
            now = time.monotonic()
            if not self.progress.total.total():
                return
            if self.moves:
                width = shutil.get_terminal_size().columns
                print(f"\r\033[K{self.progress.line(now)[: width - 1]}", end="", flush=True)
            elif self.shown == self.progress.start or now - self.shown >= PLAIN_SECONDS:
                self.shown = now
                print(self.progress.line(now), flush=True)

    def close(self) -> None:
        """Print the summary, once."""
        if not self.ended.is_set():
            self.ended.set()
            with self.lock:
                if self.progress.total.total():
                    say("\n".join(self.progress.summary(time.monotonic())))
                if self.errors and not self.progress.failed:  # Snakemake's own, such as a mistake in the Snakefile
                    say("\n".join(self.errors))
        super().close()


def say(words: str) -> None:
    """Print a line that stays, over the one that moves."""
    print(f"\r\033[K{words}" if sys.stdout.isatty() else words, flush=True)


@contextmanager
def alone(*names: str) -> Iterator[None]:
    """Keep other processes that ask for one of the names out of this folder, until the context or the process ends.

    Snakemake's own lock stays behind when it is killed, and the next call then has to be told to remove it.

    Raises:
        RuntimeError: another process holds one.
    """
    LOCKS.mkdir(parents=True, exist_ok=True)
    held = []
    try:
        for name in sorted(names):
            held.append(os.open(LOCKS / name, os.O_CREAT | os.O_RDWR))
            try:
                fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(held[-1], 20).decode() or "unknown"
                raise RuntimeError(f"{name} is under way in this folder already, in process {holder}") from None
            os.ftruncate(held[-1], 0)
            os.write(held[-1], str(os.getpid()).encode())
        yield
    finally:
        for file in held:
            os.close(file)


def share_a_volume() -> None:
    """Let pods of Kubernetes work in the clone, on a volume that all of them mount.

    Snakemake's plugin says that pods share no files. They would then get copies of the sources and hand back declared
    outputs alone, without the checkpoints of a run that was stopped.
    """
    registry = ExecutorPluginRegistry()
    if registry.is_installed("kubernetes"):
        plugin = registry.get_plugin("kubernetes")
        plugin.common_settings = replace(plugin.common_settings, implies_no_shared_fs=False, job_deploy_sources=False)


def run_snakemake(targets: list[str], options: list[str], *, details: bool = False) -> int:
    """Let Snakemake make the targets in this process; what fails does not stop the others.

    Args:
        options: of its command line, beside those that every call here has.
        details: whether to show what Snakemake says, and no line that moves.

    Returns:
        Its exit code.
    """
    LoggerPluginRegistry().register_plugin("snakemake_logger_plugin_book", sys.modules[__name__])
    share_a_volume()
    # For each cell that starts the default scheduler writes a linear programme of all that wait. It chooses none, for
    # their priorities are negative, and Snakemake then asks the greedy one.
    standing = ["--keep-going", "--rerun-incomplete", "--nolock", "--scheduler", "greedy"]
    logger = [] if details else ["--logger", "book"]
    try:
        snakemake.cli.main([*targets, *standing, *options, *logger])
    except SystemExit as end:
        return int(end.code or 0)
    return 0
