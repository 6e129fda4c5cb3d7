# `make` or `make help` lists the targets.
#
#   VENV           folder of the environment        (.venv)
#   BACKENDS_VENV  folder of the one without TF     (.venv-backends)
#   STACK          a or b instead of the choice by the C library
#   MUSE_DEMO      short: reduced data              (full)
#   IMAGE          name and tag for `make image`    (muse-pipeline:0.1.0)
#   DEMO_ARGS, TEST_ARGS, BENCH_ARGS                further arguments

SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV ?= .venv
BACKENDS_VENV ?= .venv-backends
export VENV BACKENDS_VENV STACK MUSE_SKIP_TORCH UPGRADE

IMAGE ?= muse-pipeline:0.1.0

FAST = $(addprefix tests/,test_imports.py schemas \
	$(addprefix muse_keras/,compat layers losses metrics optimizers tables \
	tensorflow test_numbers.py models/test_searches.py \
	models/test_exact_search_units.py) \
	$(addprefix serving/,wire test_addresses.py stores/test_store.py \
	stores/test_damage.py stores/test_bulk_load.py \
	$(addprefix client/test_,failures.py fresh_items.py mock.py requests.py \
	user_cache.py)))

ifeq ($(MUSE_DEMO),short)
DEMO_ARGS += --quick
endif

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' \
		$(MAKEFILE_LIST)

.PHONY: demo
demo: setup ## set up, then run the whole chain on real data and report
	@$(VENV)/bin/muse demo $(DEMO_ARGS)

.PHONY: test
test: setup setup-backends ## set up, then run all tests on three backends
	@scripts/redis-server >/dev/null || true
	@scripts/test $(TEST_ARGS)

.PHONY: test-fast
test-fast: setup ## the units and oracles on TensorFlow, for the daily loop
	@KERAS_BACKEND=tensorflow $(VENV)/bin/python -m pytest -q $(FAST) $(TEST_ARGS)

.PHONY: test-debian13
test-debian13: ## on an older Debian, as root: set-up, demo and tests on Debian 13
	@scripts/debian13

.PHONY: lint
lint: setup ## check style, formatting and types
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

.PHONY: format
format: setup ## format the code and apply the safe fixes
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

.PHONY: docs
docs: setup ## write the API reference into build/api
	@$(VENV)/bin/python scripts/api_reference.py build/api

.PHONY: wheels
wheels: setup ## build the wheels muse-keras and muse-tensorflow in build/wheels
	@$(VENV)/bin/python scripts/check_wheel.py --build-only

.PHONY: image
image: ## build the container image of the pipeline's steps, with Docker
	@docker build -f tfx_pipeline/Dockerfile -t $(IMAGE) .

.PHONY: bench
bench: setup setup-backends ## set up, then run the benchmarks
	@$(VENV)/bin/muse bench $(BENCH_ARGS)

.PHONY: setup
setup: ## make the environment with TensorFlow and TFX
	@scripts/bootstrap

.PHONY: setup-backends
setup-backends: ## make the environment with JAX and PyTorch, without TensorFlow
	@VENV=$(BACKENDS_VENV) scripts/bootstrap --backends

.PHONY: setup-engines
setup-engines: ## make the environment with Airflow and the SDK of Kubeflow Pipelines
	@VENV=.cache/engines scripts/bootstrap --engines

.PHONY: lock
lock: ## resolve requirements/*.in into the lock files
	@scripts/lock

.PHONY: clean
clean: ## remove outputs, logs and caches of tools; keep the environments
	@rm -rf demo_output pipeline_output logs build dist ./*.egg-info \
		.pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . \( -name '.venv*' -o -name .git -o -name .cache \) -prune -o \
		-name __pycache__ -type d -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## also remove the environments and the downloads
	@rm -rf $(VENV) $(BACKENDS_VENV) .cache
