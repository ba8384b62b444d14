# Each target sets up what it needs; `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
UV = uv=$$(PYTHON=$(PYTHON) .ci/uv) && "$$uv"
OUTPUT ?= build

.PHONY: help venv demo test check lint unit fuzz lock wheels clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: .venv/.ready ## the environment that every other target uses: real vLLM on the CPU, tools, this project

.venv/.ready: requirements-dev.txt pyproject.toml .ci/uv
	@[ -x $(BIN)/python ] || { $(UV) venv --quiet --python "$(PYTHON)" .venv; }
	@echo "set-up: installing the environment (6 GB on the first run)"
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps -r requirements-dev.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: venv ## the whole loop on a real vLLM: measure, recommend, rewrite, measure again
	@$(BIN)/vllm-rightsizer demo --output $(OUTPUT)

test: venv ## every test, those on a real vLLM too
	@$(BIN)/pytest

check: lint unit ## before each commit: lint, types, import contract, unit tests

lint: venv
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "lint: run ruff format ."; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo 2>&1 | tail -n 8

unit: venv
	@$(BIN)/pytest --quiet --numprocesses 2 -m "not engine and not demo"

fuzz: venv ## the property tests with new draws
	@$(BIN)/pytest --quiet --numprocesses 2 -m "not engine and not demo" --hypothesis-profile default tests/unit

lock: ## compile requirements-dev.txt from pyproject.toml, without any registry's address
	@$(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --no-emit-index-url --no-annotate \
	  --custom-compile-command "make lock" --no-emit-package vllm-rightsizer-plugin \
	  --extra demo --group dev --group vllm pyproject.toml --output-file requirements-dev.txt

wheels: ## both wheels, into dist/
	@$(UV) build --quiet --wheel --out-dir dist vllm_plugin
	@$(UV) build --quiet --wheel --out-dir dist .
	@ls dist

clean: ## what the targets made, the environment included
	rm -rf .venv build dist
