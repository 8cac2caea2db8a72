# Every target makes .venv hold what it needs first; nothing outside this folder is touched.
#
#   make up ARGS='--port 8081 --no-demo'     make bench QUICK=1     make PYTHON=/path/to/python3.12 install

SHELL := bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
export PYTHON

BIN := .venv/bin

.PHONY: help install dev up test check format bench lock clean

help: ## what can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-8s %s\n", $$1, $$2 }'

install: ## what running auditlog needs
	@tools/install.sh base

dev: ## what working on auditlog needs as well
	@tools/install.sh dev

up: install ## run everything on this machine (ARGS='--port 8081')
	@exec $(BIN)/auditlog up $(ARGS)

test: dev ## all tests, and how much of libs/ and services/ they run
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest --junit-xml=junit.xml
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

check: dev ## lint, format, types, who imports whom, house rules
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m tools.check_house

format: dev ## put the code into the house format
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

bench: dev ## the ratios of docs/benchmarks.md (QUICK=1: under 5 minutes)
	@exec $(BIN)/python -m bench $(if $(QUICK),--quick) $(ARGS)

lock: dev ## resolve pyproject.toml into the two locks again
	@tools/lock.sh

clean: ## remove what tools made here; data of `auditlog up` stays
	@rm -rf .venv .coverage .coverage.* junit.xml htmlcov dist .hypothesis .mypy_cache .pytest_cache .ruff_cache \
		.import_linter_cache .schemathesis
	@find libs services tests tools bench -name __pycache__ -type d -prune -exec rm -rf {} +
