PYTHON ?= python3
RECIPE ?= pipelines/recipes/ml100k_mf_ssm.yaml
BIN := .venv/bin

.PHONY: help demo cluster cluster-down test slow check fix
help:  ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

demo: .venv/core  ## MovieLens-100K from raw log to ranked lists, on a Ray started here (2 minutes, once installed)
	$(BIN)/python -m pipelines.movielens runs/sources
	$(BIN)/python -m pipelines.local $(RECIPE)

cluster: .venv/cluster  ## Ray, MLflow, PostgreSQL and S3 on this machine, behind passwords (30 s; takes Linux and PostgreSQL)
	$(BIN)/python -m infra.local.cluster up

cluster-down:  ## ends them
	$(BIN)/python -m infra.local.cluster down

test: .venv/dev  ## the default tests (two at a time, 13 minutes; HARDNEG_DATA names the folder of real logs)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0

slow: .venv/dev .venv/linters/done  ## the slow tests (two at a time, 25 minutes)
	OMP_NUM_THREADS=1 PATH="$(CURDIR)/.venv/linters/bin:$$PATH" $(BIN)/python -m pytest -n 2 --dist worksteal --max-worker-restart 0 -m slow

check: .venv/dev  ## ruff and pyright
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

fix: .venv/dev  ## what ruff can mend by itself
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.venv/core: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"Python {sys.version.split()[0]}: takes 3.11 or newer"'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch .venv/core

.venv/cluster: .venv/core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .[cluster]
	touch .venv/cluster

.venv/dev: .venv/core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .[dev]
	touch .venv/dev

.venv/linters/done: .venv/dev tests/infra/linters.txt  # what they take excludes what the project takes
	$(PYTHON) -m venv .venv/linters
	.venv/linters/bin/python -m pip install --quiet --disable-pip-version-check -r tests/infra/linters.txt
	touch .venv/linters/done
