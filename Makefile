# Every target makes the environment first, in .venv, from requirements.lock.
PYTHON ?= python3
CORES ?= all
PORT ?= 8000
AXE = build/node_modules/axe-core/axe.min.js
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help book serve test test-faults test-oldest coverage mutate audit test-browser test-cluster lint bench bench-peers grid \
	record enter status detection notebooks results links lock environment

help:                        ## list the targets
	@echo "make TARGET [NAME=value ...]"
	@awk -F ':.*## ' '/^[a-z -]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

book: environment            ## run the embedded grid and the chapters, build the site; DETAILS=1 shows what Snakemake says
	@python -m tools.book --cores $(CORES) $(if $(DETAILS),--details)

serve: environment           ## show the built site on 127.0.0.1; PORT=8000
	@python -m tools.serve --port $(PORT)

test: lint                   ## style, types, unit tests, docstrings' examples, and every notebook against its stored outputs
	OMP_NUM_THREADS=1 pytest -m "not browser and not cluster" --numprocesses logical --dist loadfile
	OMP_NUM_THREADS=1 pytest --doctest-modules mmlib mmbook tools
	OMP_NUM_THREADS=1 pytest --nbval notebooks --numprocesses logical --dist loadfile

test-faults: environment     ## damaged files, full disks, 20 kills of a run and 200 cells in one process: some minutes
	KILLS=20 CELLS=200 OMP_NUM_THREADS=1 pytest -m faults --numprocesses logical --dist loadfile

coverage: environment        ## branches that unit tests and examples take, in per cent; build/coverage shows the lines of the others
	OMP_NUM_THREADS=1 pytest -m "not browser and not cluster" --numprocesses logical --dist loadfile --cov --cov-report=
	OMP_NUM_THREADS=1 pytest --doctest-modules mmlib mmbook tools \
		--cov --cov-append --cov-report html
	coverage report --include "mmlib/*" --omit "mmlib/experiments/*,mmlib/_cpu_kernels.py" --fail-under 98
	coverage report --omit "mmlib/*.py" --fail-under 95

mutate: environment          ## change MODULES="mixing metrics" one thing at a time, for MINUTES each: does a test fail?
	python -m tools.mutate $(MODULES) --minutes $(or $(MINUTES),60)

test-oldest: environment     ## the quick tests with the oldest versions that pyproject.toml admits, in build/oldest
	pip install --quiet uv
	uv venv --quiet --clear --python 3.11 build/oldest
	uv pip install --quiet --python build/oldest/bin/python --resolution lowest-direct --editable ".[test]"
	PATH=$(CURDIR)/build/oldest/bin:$(PATH) OMP_NUM_THREADS=1 pytest --numprocesses logical --dist loadfile

test-browser: environment $(AXE)  ## every page of the built site in Chromium: complete, within its column, readable by everybody
	pytest tests/browser -m browser -rs

test-cluster: environment    ## grids through a real Slurm of two nodes on this machine; takes root and Debian's packages
	apt-get install --yes --quiet --no-install-recommends slurm-wlm munge
	pip install --quiet --constraint requirements.lock \
		snakemake-executor-plugin-slurm snakemake-executor-plugin-kubernetes kubernetes-validate
	OMP_NUM_THREADS=1 pytest tests/cluster -m cluster -rs

# Without npm the tests of accessibility are skipped, and say so.
$(AXE):
	-npm install --prefix build --no-save --no-audit --no-fund --silent axe-core@4.14.1

lint: environment            ## style and types alone
	ruff check .
	ruff format --check .
	basedpyright

grid record: environment     ## run the cells of GRID without a record and record them, for MINUTES; called again, it continues
	@python -m tools.record $(GRID) $(MINUTES) --cores $(CORES) $(if $(PROFILE),--profile $(PROFILE)) $(if $(DETAILS),--details)

enter: environment           ## enter runs of other machines, or another ledger, after checking them; FROM=folder
	@python -m tools.enter $(FROM)

status: environment          ## say how far GRID is: recorded, running, failed, missing, and how long the rest takes
	@python -m tools.status $(GRID)

detection: environment       ## run the detectors of detection.yml without a record, for MINUTES
	python -m tools.detect --minutes $(or $(MINUTES),inf)

notebooks: environment       ## execute the notebooks in place, or CHAPTER=07-how-long alone, and show what changed in them
	cd notebooks && OMP_NUM_THREADS=1 TQDM_DISABLE=1 jupyter nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.record_timing=False $(or $(CHAPTER),*).ipynb
	nbdiff --ignore-metadata --ignore-details --no-color HEAD -- notebooks

results: environment         ## write README's table from the records
	python -m tools.results book/results/digits

bench: environment           ## measure losses, training step and checkpoints on a quiet machine; OUT=book/results/cost records them
	python benchmarks/losses.py --out $(or $(OUT),build/bench)
	python benchmarks/training.py --out $(or $(OUT),build/bench)
	python benchmarks/checkpoints.py --out $(or $(OUT),build/bench)

bench-peers: environment     ## ours beside timm's, torchvision's and released code, as ratios; RELEASES="puzzlemix=FOLDER ..."
	python benchmarks/peers.py --out $(or $(OUT),build/bench) $(addprefix --release ,$(RELEASES))

audit: environment           ## compare requirements.lock with known vulnerabilities: DATABASE=a clone of pypa/advisory-database
	python -m tools.audit $(DATABASE)

links: environment           ## write badges, launch buttons and Colab cells from project.urls in pyproject.toml
	python -m tools.links

lock:                        ## pin the newest versions that pyproject.toml allows; needs uv
	uv pip compile --universal --python-version 3.11 --no-emit-index-url --no-annotate --no-header --extra test -o requirements.lock pyproject.toml

environment: .venv/installed ## make the environment in .venv, where it is not there or the pins have changed; TORCH=cpu: without CUDA

# PyTorch keeps its builds for processors alone in an index of its own, which uv knows by name and pip does not.
ifeq ($(TORCH),cpu)
size = some 2.5 GB, without CUDA
install = .venv/bin/python -m pip install --quiet uv && grep -Ev '^(cuda|nvidia|triton)\b' requirements.lock \
	| .venv/bin/uv pip install --quiet --python .venv/bin/python --torch-backend cpu --requirement -
else
size = 6.4 GB
install = .venv/bin/python -m pip install --quiet --requirement requirements.lock
endif

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) tools/preflight.py
	@echo "Making the environment in .venv from requirements.lock: minutes, and $(size)"
	@$(PYTHON) -m venv .venv
	@$(install)
	@.venv/bin/python -m pip install --quiet --no-deps --editable .
	@.venv/bin/python -c "import torch, mmlib; mmlib.mixed_cross_entropy(torch.eye(2), torch.arange(2))"  # numba compiles
	@touch $@
