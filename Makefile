.DEFAULT_GOAL := help
.PHONY: help run extras test test-fast check sql lock servers clean
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: .venv/run ## set up, then turn the images of the example plate into growth curves, in results/
	$(BIN)/spheroseg run examples/plate --out results

extras: .venv/extras ## install the rest of the program: HTTP backend, RabbitMQ, PostgreSQL, Parquet

test: .venv/dev servers ## set up, servers included, then run every test, in three processes, as many of them wait
	$(BIN)/python -m pytest -n 3 --dist loadgroup --no-loadscope-reorder --durations=25

test-fast: .venv/dev ## run the tests that need no server and no seconds: for use while you edit
	$(BIN)/python -m pytest -n 2 -m "not servers and not slow"

check: .venv/dev ## formatting, lint, types, and the walls between the layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

servers: ## PostgreSQL and RabbitMQ from Debian, which the tests start privately
	@sh tests/support/servers.sh

sql: .venv/run ## write scripts/postgres anew from the migrations
	$(BIN)/spheroseg db sql :009 >scripts/postgres/migrations/009_base.sql
	$(BIN)/spheroseg db sql 009:010 >scripts/postgres/migrations/010_add_message_queue_tables.sql
	$(BIN)/spheroseg db sql 010:009 >scripts/postgres/rollback/010_add_message_queue_tables_rollback.sql

lock: .venv/dev ## pin the newest allowed versions of everything in requirements.lock
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra dev --python-version 3.11 --universal --upgrade \
	    --no-emit-index-url --no-header --no-annotate --output-file requirements.lock

clean: ## remove the environment and the example results
	rm -rf .venv results

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo 'spheroseg needs Python 3.11 or newer; name one with: make PYTHON=python3.11'; exit 1; }
	@$(PYTHON) -m venv .venv >/dev/null 2>&1 || { rm -rf .venv; \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	        echo 'Installing python3-venv …'; export DEBIAN_FRONTEND=noninteractive; \
	        { apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv; } \
	            >.venv-apt.log 2>&1 || { cat .venv-apt.log; exit 1; }; rm -f .venv-apt.log; \
	    else echo 'Python lacks venv here. Install it, then try again: sudo apt-get install python3-venv'; exit 1; fi; \
	    $(PYTHON) -m venv .venv; }

# Python compiles what it uses when it first runs it; to compile everything takes 90 MB.
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c requirements.lock

.venv/run: .venv/bin/python pyproject.toml requirements.lock
	$(PIP_INSTALL) -e .
	@touch $@

.venv/extras: .venv/run
	$(PIP_INSTALL) -e '.[all]'
	@touch $@

.venv/dev: .venv/run
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@
