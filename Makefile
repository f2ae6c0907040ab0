# Every target does its own set-up: nothing but Python 3.11 or newer and make is needed.
.DEFAULT_GOAL := help
.PHONY: help demo test check bench lock clean
SHELL := /bin/sh

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

help: ## Show this list.
	@grep -E '^[a-z]+:.*## ' Makefile | sed 's/:.*## /	/' | expand -t 10

demo: $(READY) ## Fill an embedded database, export it to a folder and to S3.
	@$(BIN)/ferry demo $(ARGS)

test: $(READY) ## Run the tests, on real servers.
	@$(BIN)/pytest -n 2 $(ARGS)

check: $(READY) ## Lint, format, types, import layers.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(READY) ## Measure against the row-by-row way (QUICK=1: scale 0.1).
	@$(BIN)/python -m benchmarks.export $(ARGS)

lock: $(READY) ## Renew requirements.lock from pyproject.toml.
	@$(BIN)/uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet uv
	@PATH="$(CURDIR)/$(BIN):$$PATH" uv pip compile --quiet --upgrade --generate-hashes --universal --all-extras --no-header pyproject.toml -o requirements.lock

clean: ## Remove what the other targets made.
	rm -rf $(VENV) .demo .bench data/out dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# uv installs from the hashed lock; pip's own hash mode stumbles over extras. It comes from PATH, or from pip.
$(READY): pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, and none was found" >&2; exit 1; }
	@if command -v uv >/dev/null 2>&1; then uv venv --quiet --allow-existing --python "$(PYTHON)" $(VENV); \
	else "$(PYTHON)" -m venv $(VENV) || { echo "python3 has no venv module (Debian: apt install python3-venv), or install uv" >&2; exit 1; }; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv; fi
	@PATH="$(CURDIR)/$(BIN):$$PATH"; uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock \
	&& uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@
