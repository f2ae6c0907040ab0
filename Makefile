# Every target does its own set-up: nothing but Python 3.11 or newer and make is needed.
.DEFAULT_GOAL := help
.PHONY: help demo test check bench campaign lock clean
SHELL := /bin/sh

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# `python3` first, so that whoever set it up (a CI matrix, pyenv) decides; then the newest there is. The path, since a shim's name may mean another one.
PYTHON = $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.version_info >= (3, 11) or sys.exit(1); print(sys.executable)' 2>/dev/null && break; done)
# uv of .venv, where pip put it, else of PATH.
UV := PATH="$(CURDIR)/$(BIN):$$PATH" uv

help: ## Show this list.
	@grep -E '^[a-z]+:.*## ' Makefile | sed 's/:.*## /	/' | expand -t 10

demo: $(READY) ## Fill an embedded database, export it to a folder and to S3.
	@$(BIN)/ferry demo $(ARGS)

test: $(READY) ## Run the tests, on real servers.
	@$(BIN)/pytest -n 2 --dist loadgroup $(ARGS)

check: $(READY) ## Lint, format, types, import layers.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(READY) ## Measure exports against other ways (QUICK=1: scale 0.1); WHAT=transfers: files; WHAT=load: loads; WHAT=connector; WHAT=cost.
	@$(BIN)/python -m benchmarks.$(or $(WHAT),export) $(ARGS)

campaign: $(READY) ## Kill runs of connectors 200 times, see that nothing is lost; ARGS="--what loads": loads.
	@$(BIN)/python -m tests.campaign $(ARGS)

lock: $(READY) ## Renew requirements.lock from pyproject.toml.
	@$(UV) pip compile --quiet --upgrade --generate-hashes --universal --all-extras --no-header pyproject.toml -o requirements.lock

clean: ## Remove what the other targets made.
	rm -rf $(VENV) .demo .bench data/out dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# uv installs from the hashed lock; pip's own hash mode stumbles over extras. It comes from PATH, or from pip.
$(READY): pyproject.toml requirements.lock
	@python="$(PYTHON)"; test -n "$$python" || { echo "Python 3.11 or newer is needed, and none is on PATH" >&2; exit 1; }; \
	if command -v uv >/dev/null 2>&1; then uv venv --quiet --allow-existing --python "$$python" $(VENV); \
	else "$$python" -m venv $(VENV) >/dev/null && $(BIN)/python -m pip install --quiet --disable-pip-version-check uv; fi \
	|| { echo "no virtual environment could be made in $(VENV) (Debian: apt install python3-venv; or have uv on PATH)" >&2; exit 1; }
	@echo "installing into $(VENV) what requirements.lock names …" >&2
	@$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@
