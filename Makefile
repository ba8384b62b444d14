# Each target sets up what it needs; `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
UV = uv=$$(PYTHON=$(PYTHON) .ci/uv) && "$$uv"
OUTPUT ?= build
TEST_PROGRAMS := etcd kube-apiserver kube-controller-manager
E2E_PROGRAMS := prometheus promtool thanos actionlint helm helm3 kubectl kube-scheduler kubelet kube-proxy argo-rollouts \
  cert-manager-controller cert-manager-cainjector
QUICK := not engine and not demo and not cluster and not e2e and not processes

# Where Python keeps no bytecode, each worker rewrites and compiles every test anew, and each vLLM a thousand files.
test e2e unit fuzz: export PYTHONDONTWRITEBYTECODE =
test e2e unit fuzz: export PYTHONPYCACHEPREFIX = $(CURDIR)/build/pycache

.PHONY: help venv demo test test-programs lab-up lab-down images release push-images push-chart check lint e2e e2e-programs unit fuzz bench-webhook bench-plugin bench-recommender bench-cluster soak crds manifests matrix lock wheels bench-gpu clean

help: ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: .venv/.ready ## the environment that every other target uses: real vLLM on the CPU, tools, this project

# What stands there without a Python is half of an environment.
.venv/.ready: requirements-dev.txt pyproject.toml .ci/uv .ci/uv.txt
	@[ -x $(BIN)/python ] || { rm -rf .venv; $(UV) venv --quiet --python "$(PYTHON)" .venv; }
	@echo "set-up: installing the environment (6 GB on the first run)"
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps -r requirements-dev.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: venv ## the whole loop on a real vLLM: measure, recommend, rewrite, measure again
	@$(BIN)/vllm-rightsizer demo --output $(OUTPUT)

test: test-programs venv ## every test, those on a real vLLM and a real API server too
	@# Two files at a time, in the order of collection.
	@$(BIN)/pytest --quiet --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not e2e"

# Beside the environment and the first tests; those that need the API server come last, and wait for it.
test-programs:
	@mkdir -p build
	@$(UV) --version >/dev/null
	@nice -n 5 $(PYTHON) .ci/binaries $(TEST_PROGRAMS) > build/programs.log 2>&1 &

e2e-programs: ## the programs of `make e2e`, built ahead of it
	@$(PYTHON) .ci/binaries $(TEST_PROGRAMS) >/dev/null
	@$(PYTHON) .ci/binaries $(E2E_PROGRAMS) >/dev/null

e2e: venv e2e-programs ## the tests that need more programs: the first time they are built, which takes ten minutes
	@# The lab waits for pods most of its time: the other files run beside it.
	@$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m e2e

lab-up: venv ## a real cluster with one node on this machine, and our images in it; as root
	@$(BIN)/python -m bench.lab up

lab-down: venv ## that cluster ends, and nothing of it is left
	@$(BIN)/python -m bench.lab down

images: ## both images, for each architecture, into build/images; with buildah or docker
	@PYTHON=$(PYTHON) deploy/images/build

release: ## all files of a release, with their checksums, into dist/; with buildah or docker; REPOSITORY=HOST/FOLDER
	@.ci/release

push-images: ## both images for all architectures to REPOSITORY, with bills of materials; with docker
	@PUSH=1 deploy/images/build

push-chart: ## the chart of dist/ to REPOSITORY, as charts/vllm-rightsizer
	@[ -n "$(REPOSITORY)" ] || { echo "push-chart: whereto? REPOSITORY=registry.example.com/team"; exit 1; }
	@"$$($(PYTHON) .ci/binaries helm)/helm" push dist/vllm-rightsizer-*.tgz "oci://$(REPOSITORY)/charts"

check: lint unit ## before each commit: lint, types, import contract, unit tests

lint: venv
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "lint: run ruff format ."; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo 2>&1 | tail -n 8

unit: venv
	@$(BIN)/pytest --quiet --numprocesses 3 -m "$(QUICK)" tests/unit

fuzz: venv ## the property tests with new draws
	@$(BIN)/pytest --quiet --numprocesses 2 -m "$(QUICK)" --hypothesis-profile new-draws tests/unit

bench-webhook: venv ## what the webhook costs, on a real API server and beside the VPA's
	@$(BIN)/python -m bench.webhook --json

bench-plugin: venv ## what the plugin gets right and what it costs; JUDGE=…/kvsim.py: also against that simulator
	@missed=0; $(BIN)/python -m bench.plugin --json $(if $(JUDGE),--judge $(JUDGE)) || missed=1; \
	$(BIN)/python -m bench.scrape --json || missed=1; exit $$missed

bench-recommender: venv ## what a round, its memory and its history cost, from 1,000 to 30,000 pods; 4 GB of scratch
	@mkdir -p $(OUTPUT) && $(BIN)/python -m bench.recommender --json --plot $(OUTPUT)/recommender.svg

bench-cluster: venv ## what an installation costs a real cluster with one node, made for it; as root
	@$(BIN)/python -m bench.cluster --json

soak: venv ## 200,000 requests through the real scheduler: the plugin's memory stays flat
	@$(BIN)/python -m bench.soak --json

crds: venv ## deploy/crds and the chart's copy, from the types in recommender/api
	@$(BIN)/vllm-rightsizer crds --folder deploy/crds
	@$(BIN)/vllm-rightsizer crds --folder deploy/chart/crds

manifests: crds ## deploy/kubernetes, which is what deploy/chart renders with its defaults; and its schema
	@$(BIN)/python -m bench.lab.chart

matrix: venv ## the plugin on vLLM releases, all that can be had or those in RELEASES: docs/compatibility.md
	@$(BIN)/python -m bench.matrix $(RELEASES)

lock: ## compile requirements-dev.txt from pyproject.toml, without any registry's address
	@$(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --no-emit-index-url --no-annotate \
	  --custom-compile-command "make lock" --no-emit-package vllm-rightsizer-plugin \
	  --extra demo --group dev --group vllm pyproject.toml --output-file requirements-dev.txt
	@$(UV) pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-annotate --generate-hashes \
	  --custom-compile-command "make lock" --no-emit-package vllm-rightsizer-plugin \
	  --constraint requirements-dev.txt pyproject.toml --output-file deploy/images/requirements.txt

wheels: ## both wheels, into dist/
	@$(UV) build --quiet --wheel --out-dir dist vllm_plugin
	@$(UV) build --quiet --wheel --out-dir dist .
	@ls dist

bench-gpu: ## bytes, override and speed on an NVIDIA card, with the vLLM of PYTHON (pip install vllm)
	@$(PYTHON) -m bench.gpu --json

clean: ## what the targets made, the environment included
	rm -rf .venv build dist
