# Needs make and python3 (3.11 to 3.13); everything else is brought into .venv.
PYTHON ?= python3
RECIPE ?= quickstart
DATA_quickstart := drawn
DATA_cats_vs_dogs := tfds:cats_vs_dogs
DATA ?= $(DATA_$(RECIPE))
# Where data sets and runs go: a folder, or gs://bucket/prefix.
BUCKET = bucket

BIN := .venv/bin
# Where the driver of an NVIDIA GPU answers, TensorFlow comes with CUDA.
LOCK := $(if $(shell nvidia-smi -L 2>/dev/null),requirements-gpu.lock,requirements.lock)
LOCKED := $(LOCK) requirements-dev.lock
SETUP := .venv/.set-up-from-$(LOCK)
INFRA := .venv-infra/.set-up
IMAGE ?= catdog
ACCELERATOR ?= cpu
BUILDER = $(shell docker info >/dev/null 2>&1 && echo docker || echo buildah)
BUILD_docker := docker build
BUILD_buildah := buildah bud --format docker --isolation chroot --layers
# uv from the PATH, else from .venv, at work on the environment that is named.
uv_on = PATH="$$PATH:$(CURDIR)/$(BIN)" VIRTUAL_ENV="$(CURDIR)/$(1)" uv
UV := $(call uv_on,.venv)

# Where Python may not keep what it compiles, each of its processes compiles TensorFlow anew, for 15 s.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup train-local recipe-and-data bucket train-bucket cluster submit cluster-down test test-slow test-gpu test-kills fuzz image image-test check-infra audit lint bench tensorboard lock clean

help: ## Show what there is
	@echo 'make TARGET, where TARGET is one of'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(SETUP) ## Bring everything into .venv
	@echo "All is in .venv."

$(SETUP): $(LOCKED) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || \
	  { echo "$(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing); Python 3.11, 3.12 or 3.13 is needed: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@echo "Setting up .venv from $(LOCK); this takes minutes the first time."
	@$(PYTHON) -m venv .venv >.venv.log 2>&1 || \
	  { tail -n 3 .venv.log >&2; rm -f .venv.log; exit 2; }; rm -f .venv.log
	@$(UV) --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(UV) pip sync --quiet --require-hashes $(LOCKED)
	@$(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	@rm -f .venv/.set-up-from-* && touch $@

train-local: recipe-and-data $(SETUP) ## Prepare, train, evaluate: [RECIPE=photos] [DATA=folder:PATH] [ARGS="--phases.0.epochs 3"]
	@$(BIN)/catdog prepare --reuse "$(DATA)" "$(BUCKET)/data/$(RECIPE)"
	@$(BIN)/catdog train "job/recipes/$(RECIPE).toml" --data.uri "$(BUCKET)/data/$(RECIPE)" --run "$(BUCKET)/runs/$(RECIPE)" $(ARGS)

bucket: $(SETUP) ## Serve bucket/emulator as gs://catdog, until Ctrl-C: [ARGS="--port 9024"]
	@$(BIN)/python -m infra.bucket $(ARGS)

train-bucket: recipe-and-data $(SETUP) ## The same as train-local, but wholly through such a gs://catdog
	@$(BIN)/python -m infra.bucket --folder bucket/train-bucket --port 0 -- \
	  $(MAKE) --no-print-directory train-local BUCKET=gs://catdog

cluster: $(SETUP) ## Start a Ray cluster of two nodes on this machine, in the background: [ARGS="--cpus 2"]
	@$(BIN)/python -m infra.cluster up $(ARGS)

submit: recipe-and-data $(SETUP) ## The same as train-local, but as a job on that cluster, with two workers
	@$(BIN)/python -m infra.cluster run -- true
	@$(BIN)/catdog prepare --reuse "$(DATA)" "$(BUCKET)/data/$(RECIPE)"
	@$(BIN)/python -m infra.cluster run -- $(BIN)/python -m job.submit "job/recipes/$(RECIPE).toml" --workers 2 \
	  --data.uri "$(BUCKET)/data/$(RECIPE)" --run "$(BUCKET)/runs/$(RECIPE)" \
	  $(if $(STORAGE_EMULATOR_HOST),--env STORAGE_EMULATOR_HOST) $(ARGS)

cluster-down: $(SETUP) ## End that cluster, with all that runs on it
	@$(BIN)/python -m infra.cluster down

recipe-and-data:
	@test -f "job/recipes/$(RECIPE).toml" || \
	  { echo "there is no recipe $(RECIPE): RECIPE is one of $(sort $(basename $(notdir $(wildcard job/recipes/*.toml))))" >&2; exit 2; }
	@case "$(DATA)" in \
	  drawn | tfds:?* | folder:?*) ;; \
	  "") echo "say what to train on: make $(MAKECMDGOALS) RECIPE=$(RECIPE) DATA=folder:PATH" >&2; exit 2 ;; \
	  *) echo "DATA=$(DATA): must be drawn, folder:PATH or tfds:cats_vs_dogs" >&2; exit 2 ;; \
	esac

test: $(SETUP) ## Run the tests that CI runs
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

fuzz: $(SETUP) ## Try mutated inputs of each parser, others each time: [ARGS="recipe zip --seconds 600"]
	$(BIN)/python -m tests.fuzz $(ARGS)

test-slow: $(SETUP) ## Run the tests that take minutes
	$(BIN)/python -m pytest -m slow

test-gpu: $(SETUP) ## Show on a GPU what is said of GPUs, and how fast it trains
	CATDOG_GPU=$${CATDOG_GPU:-yes} $(BIN)/python -m pytest -m gpu tests/gpu -rs -s

test-kills: $(SETUP) ## Kill each command at random moments, a hundred times, and look at how it ends
	$(BIN)/python -m pytest -m kills

image: ## Build the container image with docker or buildah: [IMAGE=catdog] [ACCELERATOR=gpu] [BASE=...] [ARGS=...]
	@command -v $(BUILDER) >/dev/null || { echo "neither a docker that answers nor buildah is here: apt-get install buildah" >&2; exit 2; }
	$(BUILD_$(BUILDER)) $(if $(BASE),--build-arg BASE=$(BASE)) --build-arg ACCELERATOR=$(ACCELERATOR) \
	  --build-arg VERSION=$(shell git describe --always --dirty 2>/dev/null || echo unknown) --tag $(IMAGE) $(ARGS) .

image-test: $(SETUP) ## Build the image and run it, alone and as a cluster of two containers; needs podman and root
	$(BIN)/python -m pytest tests/image

check-infra: $(SETUP) $(INFRA) ## Check Dockerfile, Kubernetes, Terraform, workflows, scripts
	$(BIN)/python -m pytest tests/infra

audit: $(INFRA) ## Look for known holes in the packages of the image; needs the internet
	.venv-infra/bin/pip-audit --disable-pip --require-hashes --strict --requirement requirements.lock
	.venv-infra/bin/pip-audit --disable-pip --require-hashes --strict --requirement requirements-gpu.lock

$(INFRA): requirements-infra.lock $(SETUP)
	@$(BIN)/python -m venv .venv-infra
	@$(call uv_on,.venv-infra) pip sync --quiet --require-hashes requirements-infra.lock
	@touch $@

lint: $(SETUP) ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(SETUP) ## Measure the job, its parts, streaming, workers, plans and the recovery of killed runs: PHOTOS=PATH
	@test -n "$(PHOTOS)" || { echo "say what to train on: make bench PHOTOS=PATH, a folder of class folders" >&2; exit 2; }
	$(BIN)/python -m tests.bench.against_guide "$(PHOTOS)"
	$(BIN)/python -m tests.bench.parts "$(PHOTOS)"
	$(BIN)/python -m tests.bench.streaming "$(PHOTOS)"
	$(BIN)/python -m tests.bench.workers "$(PHOTOS)"
	$(BIN)/python -m tests.bench.planned "$(PHOTOS)"
	$(BIN)/python -m tests.bench.recovery

tensorboard: $(SETUP) ## Show the runs in a browser
	$(BIN)/tensorboard --logdir bucket/runs

COMPILE := $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

lock: $(SETUP) ## Resolve the dependencies anew, to their newest versions
	$(COMPILE) pyproject.toml --output-file requirements.lock
	$(COMPILE) pyproject.toml --extra gpu --constraint requirements.lock --output-file requirements-gpu.lock
	$(COMPILE) --group dev --constraint requirements.lock --output-file requirements-dev.lock
	$(COMPILE) --group infra --output-file requirements-infra.lock
	$(COMPILE) --group launcher --constraint requirements.lock --output-file infra/ray-head/requirements.lock

clean: ## Remove .venv and caches; data and runs in bucket/ stay
	rm -rf .venv .venv-infra .pytest_cache .ruff_cache .mypy_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
