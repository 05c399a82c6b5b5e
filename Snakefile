"""The grid of papermill runs, the chapters and the site.

A cell is known by its metrics.json alone: declared outputs of a failed job are deleted, and going on needs the
checkpoint beside it. What a cell watches of mmlib is a digest of its meaning (`mmlib.provenance`), so that a comment
there runs no cell again, and of notebooks a digest of their cells (`tools.chapters`), so that refreshed outputs and
touched files run nothing again.
"""

import math
import os
import shlex

import yaml

from mmbook import grids
from mmlib.provenance import code_digest
from tools.chapters import cells_digest, source_digest

# Results do not depend on it, and two cells with one thread each beat one cell with two.
os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}

CELL = "notebooks/04-one-run.ipynb"
RUN = "runs/{grid}/{dataset}/{model}/{variant}/seed{seed}"
# Every chapter with the parameters that the site shows it with.
CHAPTERS = {
    "01-multimix": {},
    "02-dense-multimix": {},
    "03-self-distillation": {},
    "04-one-run": {"method": "multimix", "folder": "runs/embedded/digits/preactresnet-small/multimix/seed0"},
    "05-embedding-space": {"results": "runs/embedded"},
    "06-compare-methods": {"results": "runs/embedded"},
    "07-cost": {},
    "08-robustness": {"results": "runs/embedded"},
    "09-out-of-distribution": {"results": "runs/embedded"},
    "10-mixing-methods": {},
    "11-cifar100": {},
    "12-signal": {},
    "13-ablations": {},
    "14-claims": {},
    "15-undetermined": {},
    "16-detection": {},
}


CELLS = {grid: {str(cell.place): cell for cell in grids.cells(grid)} for grid in grids.read()}
# `make record` ends at a deadline, seconds since 1970; a finished cell does not depend on it.
DEADLINE = int(config.get("deadline", 2**33))


def cell_of(wildcards):
    return CELLS[wildcards.grid]["{dataset}/{model}/{variant}/seed{seed}".format(**wildcards)]


def finished(grid):
    return [f"runs/{grid}/{place}/metrics.json" for place in CELLS[grid]]


def chapter_parameters(chapter):
    given = CHAPTERS[chapter]
    if chapter != "04-one-run":
        return given
    (cell,) = (cell for cell in CELLS["embedded"].values() if given["folder"].endswith(str(cell.place)))
    return cell.parameters | given


def command(cell):
    """Up to the value of `max_minutes`."""
    parameters = cell.parameters | {"folder": f"runs/{cell.grid}/{cell.place}"}
    if cell.processes == 1:
        return papermill(CELL, f"{parameters['folder']}/notebook.ipynb", parameters) + " -p max_minutes "
    values = " ".join(shlex.quote(f"{name}={value!r}") for name, value in parameters.items())
    return f"torchrun --standalone --nproc-per-node {cell.processes} -m mmlib {values} max_minutes="


def papermill(notebook, output, parameters):
    # As YAML writes them: papermill reads JSON's 1e-05 as a string.
    values = yaml.safe_dump(parameters, default_flow_style=True, sort_keys=False, width=math.inf).strip()
    return f"papermill -k python3 --no-progress-bar {notebook} {output} -y {shlex.quote(values)}"


rule site:
    input:
        expand("build/notebooks/{chapter}.ipynb", chapter=CHAPTERS),
        finished("embedded"),
    params:
        sources=source_digest("book", "examples", "tools", "_config.yml", "_toc.yml", "pyproject.toml", "mmbook", "mmlib"),
    output:
        "build/site/_build/html/index.html",
    shell:
        "python -m tools.site build/site --notebooks build/notebooks --results runs/embedded"


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
    # In the order of experiments.yml.
    priority: lambda wildcards: -list(CELLS[wildcards.grid]).index(str(cell_of(wildcards).place))
    output:
        f"{RUN}/metrics.json",
    log:
        "build/logs/{grid}/{dataset}-{model}-{variant}-seed{seed}.log",
    shell:
        "left=$(({DEADLINE} - $(date +%s))); [ $left -gt 0 ] || exit 1; "
        "{params.command}$(awk \"BEGIN {{{{print $left / 60}}}}\") > {log} 2>&1"


rule chapter:
    input:
        lambda wildcards: finished("embedded") if "runs/embedded" in str(CHAPTERS[wildcards.chapter]) else [],
    params:
        sources=lambda wildcards: source_digest(
            f"notebooks/{wildcards.chapter}.ipynb", "mmbook", "mmlib", "book/results", "experiments.yml", "detection.yml"
        ),
        command=lambda wildcards: papermill(
            f"notebooks/{wildcards.chapter}.ipynb",
            f"build/notebooks/{wildcards.chapter}.ipynb",
            chapter_parameters(wildcards.chapter),
        ),
    output:
        "build/notebooks/{chapter}.ipynb",
    log:
        "build/logs/chapters/{chapter}.log",
    shell:
        "{params.command} > {log} 2>&1"
