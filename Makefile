# Every target makes the environment first, in .venv, from requirements.lock.
PYTHON ?= python3
CORES ?= all
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: book test lint bench record detection results links lock environment

book: environment            ## run the embedded grid and the chapters, build the site
	snakemake --cores $(CORES) --quiet rules --keep-going --rerun-incomplete site
	@echo "Open $(CURDIR)/build/site/_build/html/index.html"

test: lint                   ## style, types, unit tests, docstrings' examples, and every notebook against its stored outputs
	OMP_NUM_THREADS=1 pytest
	OMP_NUM_THREADS=1 pytest --doctest-modules mmlib mmbook
	OMP_NUM_THREADS=1 pytest --nbval notebooks

lint: environment
	ruff check .
	ruff format --check .
	basedpyright

record: environment          ## run the cells of GRID without a record for MINUTES and record them; called again, it continues
	python -m tools.record $(GRID) $(MINUTES) --cores $(CORES)

detection: environment       ## run the detectors of detection.yml without a record, for MINUTES
	python -m tools.detect --minutes $(or $(MINUTES),inf)

results: environment         ## write README's table from the records
	python -m tools.results book/results/digits

bench: environment           ## measure losses, training step and checkpoints on a quiet machine; OUT=book/results/cost records them
	python benchmarks/losses.py --out $(or $(OUT),build/bench)
	python benchmarks/training.py --out $(or $(OUT),build/bench)
	python benchmarks/checkpoints.py --out $(or $(OUT),build/bench)

links: environment           ## write badges, launch buttons and Colab cells from project.urls in pyproject.toml
	python -m tools.links

lock:                        ## pin the newest versions that pyproject.toml allows; needs uv
	uv pip compile --universal --python-version 3.11 --no-emit-index-url --no-annotate --no-header --extra test -o requirements.lock pyproject.toml

environment: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --requirement requirements.lock
	.venv/bin/python -m pip install --quiet --no-deps --editable .
	touch $@
