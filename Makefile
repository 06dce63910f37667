# cornet's commands. Each works in a fresh clone with nothing but Python 3.11 to 3.13 and make: `.venv` is set up on first use.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help install demo test bench bench-peers check lint format types imports drift k8s-check k8s-left-out protos train serve locks clean

VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv

# The same module, never both: onnxruntime-gpu where there is an NVIDIA GPU, onnxruntime elsewhere. `make install ACCELERATOR=cpu` decides by hand.
ACCELERATOR ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU && echo gpu || echo cpu)
LOCK := deploy/locks/dev-$(ACCELERATOR).txt
INSTALLED := $(VENV)/.installed-$(ACCELERATOR)

# Where npm notes what it has installed.
GRPC_JS := tests/contract/grpc_js/node_modules/.package-lock.json

# The first Python that is new enough.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$python && break; done)

help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Set up .venv with everything: serving, training, tests (picks the GPU runtime where there is a GPU)

$(INSTALLED): $(LOCK) pyproject.toml
	@test -n "$(PYTHON)" || { echo "cornet needs Python 3.11, 3.12 or 3.13 as python3 (or PYTHON=...)."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(UV) || $(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep -E '^uv==' $(LOCK) | cut -d' ' -f1)"
	VIRTUAL_ENV=$(VENV) $(UV) pip sync --quiet $(LOCK)
	VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --no-deps --editable .
	@rm -f $(VENV)/.installed-* && touch $@

demo: $(INSTALLED) ## Train, prove, export, serve and call every family (about five minutes)
	$(BIN)/python -m training.demo

test: $(INSTALLED) $(if $(shell command -v npm),$(GRPC_JS)) ## Run every test, in two processes
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# A gRPC client in another language; the test that asks it is skipped, and says so, where it cannot be installed.
$(GRPC_JS): tests/contract/grpc_js/package-lock.json
	@npm ci --prefix $(<D) --ignore-scripts --no-audit --no-fund --silent && touch $@ || echo "grpc-js is not installed"

bench: $(INSTALLED) ## Compare with other servers on this machine and judge the ratios (a few minutes: make bench ARGS=--quick)
	$(BIN)/python -m tests.load.bench $(ARGS)

bench-peers: $(INSTALLED) ## Install the servers to compare with, each in an environment of its own (.bench-peers)
	$(BIN)/python -m tests.load.bench.install_peers

# The manifests are left out, and say so, where there is no kubectl to render them.
check: lint types imports drift $(if $(shell command -v kubectl),k8s-check,k8s-left-out) test ## What CI runs: lint, types, import rules, drift of generated files, manifests, tests

lint: $(INSTALLED) ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED) ## Mend what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED) ## Check types
	$(BIN)/mypy

imports: $(INSTALLED) ## Check who imports whom
	$(BIN)/lint-imports --no-cache

drift: $(INSTALLED) ## Check that generated files match their sources
	$(BIN)/python protos/compile.py --check

k8s-check: $(INSTALLED) ## Render every Kubernetes overlay, validate it offline and hold it to the house rules
	$(BIN)/python -m deploy.k8s.prometheus_rule --check
	$(BIN)/python -m deploy.k8s.check

k8s-left-out:
	@echo "k8s-check is left out: kubectl is not installed (Debian: apt-get install kubernetes-client)"

protos: $(INSTALLED) ## Compile protos/*.proto into the descriptor set the codecs load
	$(BIN)/python protos/compile.py

train: $(INSTALLED) ## Train and export one family: make train FAMILY=regressor
	$(BIN)/cornet train $(or $(FAMILY),regressor) $(ARGS)

serve: $(INSTALLED) ## Serve everything in exported_models/ on ports 8500 (gRPC) and 8501 (HTTP)
	$(BIN)/cornet serve $(ARGS)

# Every other environment is part of the development one, so that none holds a version the tests have not seen.
COMPILE = $(UV) pip compile --quiet --universal --upgrade --no-emit-index-url --python-version 3.11 --custom-compile-command 'make locks' pyproject.toml

locks: $(INSTALLED) ## Resolve the dependencies of pyproject.toml again into deploy/locks/
	@set -e; for accelerator in cpu gpu; do \
	  dev="deploy/locks/dev-$$accelerator.txt"; \
	  $(COMPILE) --extra $$accelerator --extra dev --output-file $$dev; \
	  $(COMPILE) --extra $$accelerator --constraint $$dev --output-file deploy/locks/$$accelerator.txt; \
	  $(COMPILE) --extra $$accelerator --extra batch --constraint $$dev --output-file deploy/locks/batch-$$accelerator.txt deploy/docker/batch.in; \
	done
	@$(COMPILE) --extra cpu --extra train --constraint deploy/locks/dev-cpu.txt --output-file deploy/locks/train.txt

clean: ## Remove .venv, caches, training runs and exports
	rm -rf $(VENV) build runs .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find exported_models -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
	rm -rf tests/contract/grpc_js/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
