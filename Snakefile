"""The grid of papermill runs, the chapters and the site.

A cell is known by its metrics.json alone: Snakemake deletes the declared outputs of a failed job, and resuming needs
the checkpoint beside it. A cell watches a digest of mmlib's meaning (`mmlib.experiments.provenance`), so that a
comment there runs no cell again. Of notebooks and other sources, digests of what git tracks are watched
(`tools.digests`), so that refreshed outputs, touched files and caches run nothing again.
"""

import math
import os
import shlex

import torch
import yaml

from mmbook import grids
from mmlib.experiments.arguments import to_arguments
from mmlib.experiments.provenance import code_digest
from tools import stage
from tools.digests import cells_digest, records_digest, source_digest

# Results do not depend on it, and two cells with one thread each beat one cell with two.
os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
# One run on each GPU at a time, however many cores there are; `--resources gpu=N` allows another number.
if "gpu" not in workflow.global_resources:
    workflow.global_resources["gpu"] = max(1, torch.cuda.device_count())

CELL = "notebooks/05-one-run.ipynb"
RUN = "runs/{grid}/{dataset}/{model}/{variant}/seed{seed}"
# Every chapter with the parameters that the site shows it with.
CHAPTERS = {
    "01-multimix": {},
    "02-dense-multimix": {},
    "03-self-distillation": {},
    "04-mixing-methods": {},
    "05-one-run": {"method": "multimix", "folder": "runs/digits/digits/preactresnet-small/multimix/seed0"},
    "06-compare-methods": {},
    "07-how-long": {},
    "08-embedding-space": {},
    "09-robustness": {},
    "10-out-of-distribution": {},
    "11-detection": {},
    "12-cifar100": {},
    "13-cost": {},
    "14-signal": {},
    "15-ablations": {},
    "16-undetermined": {},
    "17-claims": {},
    "18-scale": {},
}


# Cells by grid; those that a grid takes from another one lie in the other grid's folder.
CELLS = {grid: grids.cells(grid) for grid in grids.load_grids()}
CELL_AT = {f"{cell.grid}/{cell.path}": cell for cells in CELLS.values() for cell in cells}
ORDER = {path: number for number, path in enumerate(CELL_AT)}
RECORDS = records_digest("book/results")
# `make record` ends at a deadline, seconds since 1970; a finished cell does not depend on it.
DEADLINE = int(config.get("deadline", 2**33))

# A cell ends itself after its minutes. In a job of a cluster it leaves that to the cluster, and helps where none does.
GRACE_MINUTES = 5 if workflow.remote_exec else 0


def cell_of(wildcards):
    return CELL_AT["{grid}/{dataset}/{model}/{variant}/seed{seed}".format(**wildcards)]


def finished(grid):
    return [f"runs/{cell.grid}/{cell.path}/metrics.json" for cell in CELLS[grid]]


def chapter_parameters(chapter):
    given = CHAPTERS[chapter]
    if chapter != "05-one-run":
        return given
    (cell,) = (cell for cell in CELLS["embedded"] if given["folder"] == f"runs/{cell.grid}/{cell.path}")
    return cell.parameters | given


def command(cell):
    """The cell's command up to the value of `max_minutes`."""
    parameters = cell.parameters | {"folder": f"runs/{cell.grid}/{cell.path}"}
    before = once_a_node(cell) if cell.nodes > 1 else ""
    if cell.stage:
        before += f"python -m tools.stage {shlex.quote(cell.stage)} "
        parameters |= stage.marked(parameters, cell.stage)
    if cell.gpus:
        before += f"python -m tools.gpus {cell.gpus} "
    if cell.processes == 1:
        return before + papermill(CELL, f"{parameters['folder']}/notebook.ipynb", parameters) + " -p max_minutes "
    where = rendezvous(cell) if cell.nodes > 1 else "--standalone"
    torchrun = f"torchrun {where} --nproc-per-node {cell.processes // cell.nodes} -m mmlib.experiments"
    return f"{before}{torchrun} {shlex.join(to_arguments(parameters))} --max-minutes "


def several_nodes(cell, value):
    """The value for a cell of several nodes, None for any other."""
    return value if cell.nodes > 1 else None


def once_a_node(cell):
    """Slurm's command that starts what follows once on each node of the job, and ends all where one fails."""
    return f"srun --nodes {cell.nodes} --ntasks {cell.nodes} --ntasks-per-node 1 --kill-on-bad-exit=1 "


def rendezvous(cell):
    """How the torchruns of several nodes find each other: on the first one, at a port of the job's own.

    They wait an hour for each other, since one node may have to copy data that another has already.
    """
    place = "--rdzv-endpoint $(hostname):$((20000 + SLURM_JOB_ID % 10000)) --rdzv-id $SLURM_JOB_ID"
    waits = "--rdzv-conf join_timeout=3600,read_timeout=3600"
    return f"--nnodes {cell.nodes} --rdzv-backend c10d {place} {waits}"


def papermill(notebook, output, parameters):
    # As YAML writes them: papermill reads JSON's 1e-05 as a string.
    values = yaml.safe_dump(parameters, default_flow_style=True, sort_keys=False, width=math.inf).strip()
    files = f"{shlex.quote(notebook)} {shlex.quote(output)}"
    return f"papermill -k python3 --no-progress-bar {files} -y {shlex.quote(values)}"


rule site:
    input:
        expand("build/notebooks/{chapter}.ipynb", chapter=CHAPTERS),
        finished("embedded"),
    params:
        records=RECORDS,
        sources=source_digest(
            "book", "examples", "tools", "_config.yml", "_toc.yml", "pyproject.toml", "mmbook", "mmlib"
        ),
    # Not deleted before the build, which swaps the whole site in at its end.
    output:
        update("build/site/_build/html/index.html"),
    log:
        "build/logs/site.log",
    shell:
        "python -m tools.site build/site --notebooks build/notebooks --results book/results/digits > {log:q} 2>&1"


for grid in CELLS:

    rule:
        name:
            grid
        input:
            finished(grid),


rule cell:
    params:
        parameters=lambda wildcards: cell_of(wildcards).parameters,
        code=f"{code_digest()} {cells_digest(CELL)}",
        command=lambda wildcards: command(cell_of(wildcards)),
    threads: lambda wildcards: cell_of(wildcards).cores
    # What is None is not asked for.
    resources:
        gpu=lambda wildcards: cell_of(wildcards).gpus or None,
        runtime=lambda wildcards: math.ceil(cell_of(wildcards).resources.get("minutes", 24 * 60)),
        mem_mb=lambda wildcards: cell_of(wildcards).resources.get("memory_mib", 8192),  # Slurm counts in MiB
        # One task a node; of a job with `mpi` the plugin for Slurm leaves `srun` to the command.
        nodes=lambda wildcards: several_nodes(cell_of(wildcards), cell_of(wildcards).nodes),
        tasks=lambda wildcards: several_nodes(cell_of(wildcards), cell_of(wildcards).nodes),
        mpi=lambda wildcards: several_nodes(cell_of(wildcards), "srun"),
        tasks_per_gpu=lambda wildcards: several_nodes(cell_of(wildcards), 0),
    # In the order of experiments.yml.
    priority: lambda wildcards: -ORDER[f"{wildcards.grid}/{cell_of(wildcards).path}"]
    output:
        f"{RUN}/metrics.json",
    log:
        "build/logs/{grid}/{dataset}-{model}-{variant}-seed{seed}.log",
    shell:
        # Snakemake makes it `threads`, among which are the readers of images.
        "export OMP_NUM_THREADS=1; left=$(({DEADLINE} - $(date +%s))); "
        "[ $left -gt 0 ] || {{ echo 'Interrupted: the time was over before the cell began' > {log:q}; exit 1; }}; "
        "exec python -m tools.cell $(({resources.runtime} + {GRACE_MINUTES})) {params.command}$(awk \"BEGIN {{{{print $left / 60}}}}\") > {log:q} 2>&1"


rule chapter:
    input:
        lambda wildcards: finished("embedded") if "folder" in CHAPTERS[wildcards.chapter] else [],
    params:
        sources=lambda wildcards: source_digest(
            f"notebooks/{wildcards.chapter}.ipynb", "mmbook", "mmlib", "experiments.yml", "detection.yml"
        ),
        records=RECORDS,
        command=lambda wildcards: papermill(
            f"notebooks/{wildcards.chapter}.ipynb",
            f"build/logs/chapters/{wildcards.chapter}.ipynb",
            chapter_parameters(wildcards.chapter),
        ),
    output:
        "build/notebooks/{chapter}.ipynb",
    log:
        "build/logs/chapters/{chapter}.log",
    # Executed beside the log: of a chapter that fails, the notebook with the traceback stays there.
    shell:
        "{params.command} > {log:q} 2>&1 && cp build/logs/chapters/{wildcards.chapter}.ipynb {output:q}"
