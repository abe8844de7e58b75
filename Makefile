# Needs python3 (3.11 to 3.13) and make; everything else is brought into .venv.
PYTHON ?= python3
RECIPE ?= quickstart
BIN := .venv/bin
# Where the driver of a GPU answers, TensorFlow's build with CUDA is taken.
LOCK := $(if $(shell nvidia-smi -L 2>/dev/null),requirements-gpu.lock,requirements.lock)
SETUP := .venv/.$(LOCK)

DATA_quickstart := drawn
DATA_cats_vs_dogs := tfds:cats_vs_dogs
DATA ?= $(DATA_$(RECIPE))

.DEFAULT_GOAL := help
.PHONY: help setup train-local test test-slow lint bench tensorboard lock clean

help: ## Show what there is
	@echo 'make TARGET, where TARGET is one of'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(SETUP) ## Bring everything into .venv

$(SETUP): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "$(PYTHON) is $$($(PYTHON) -V 2>&1); Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	command -v uv >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	PATH="$$PATH:$(BIN)" VIRTUAL_ENV=.venv uv pip sync --quiet --allow-empty-requirements --require-hashes $(LOCK)
	PATH="$$PATH:$(BIN)" VIRTUAL_ENV=.venv uv pip install --quiet --no-deps --no-build-isolation --editable .
	@rm -f .venv/.requirements*.lock && touch $@

train-local: $(SETUP) ## Train, evaluate and report: RECIPE=quickstart|photos|cats_vs_dogs DATA=folder:PATH ARGS="--phases.0.epochs 3"
	@test -f job/recipes/$(RECIPE).toml || \
	  { echo "there is no recipe $(RECIPE): RECIPE is one of $(basename $(notdir $(wildcard job/recipes/*.toml)))" >&2; exit 2; }
	@test -n "$(DATA)" || { echo "say what to train on: make train-local RECIPE=$(RECIPE) DATA=folder:PATH" >&2; exit 2; }
	@$(BIN)/catdog prepare --reuse "$(DATA)" bucket/data/$(RECIPE)
	@$(BIN)/catdog train job/recipes/$(RECIPE).toml --data.uri bucket/data/$(RECIPE) --run bucket/runs/$(RECIPE) $(ARGS)

test: $(SETUP) ## Run the tests that CI runs
	$(BIN)/python -m pytest

test-slow: $(SETUP) ## Run the tests that take minutes
	$(BIN)/python -m pytest -m slow

lint: $(SETUP) ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(SETUP) ## Measure speed against Keras' guide, as ratios within one run
	$(BIN)/python -m tests.bench.against_guide

tensorboard: $(SETUP) ## Show the runs in a browser
	$(BIN)/tensorboard --logdir bucket/runs

lock: $(SETUP) ## Resolve the dependencies anew
	PATH="$$PATH:$(BIN)" uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-annotate --extra dev pyproject.toml -o requirements.lock
	PATH="$$PATH:$(BIN)" uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-annotate --extra dev --extra gpu pyproject.toml -o requirements-gpu.lock

clean: ## Remove .venv and caches, not data and runs in bucket/
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
