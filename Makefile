# `make` alone lists the targets. Everything runs from .venv. `make setup` makes it once, and updates it only when
# pyproject.toml or constraints.txt change. While it is up to date, no target needs the network.
#
# To use another build of torch (for a GPU, or the small CPU build instead of PyPI's large default on Linux), install it first:
#   make setup TORCH_INSTALL="torch==2.13.0 --index-url https://download.pytorch.org/whl/cu130"
#   make setup TORCH_INSTALL="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
# It is kept as long as its release is the one in TORCH.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup demo teacher results test test-all fuzz lint docs lock audit bench ui clean cluster-up cluster-down FORCE

PYTHON ?= python3
TORCH := torch==2.13.0
TORCH_INSTALL ?=
ADVISORY_DB ?=
UI_PORT ?= 5000
TEST_PROCESSES ?= 2
FUZZ ?=
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.mobilevos-setup
CODE := jobs pipelines vos cluster tests docs
CHECK_PYTHON := import sys; v = sys.version_info; ok = v >= (3, 11); ok or print(f"Python {v.major}.{v.minor} ({sys.executable}) is too old: 3.11 or newer is needed; name one: make setup PYTHON=python3.12", file=sys.stderr); sys.exit(0 if ok else 2)

help: ## list the targets
	@printf 'MobileVOS on Ray: make <target>\n\n'
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | while IFS='|' read -r name text; do printf '  %-13s %s\n' "$$name" "$$text"; done
	@printf '\nVariables: PYTHON=python3.12 (first set-up), TORCH_INSTALL="torch==2.13.0 --index-url URL" (your own torch build),\n'
	@printf 'DAVIS_ROOT=/path (real video for demo), MLFLOW_TRACKING_URI, UI_PORT, CLUSTER_CPUS, CLUSTER_DASHBOARD_PORT, TEST_PROCESSES.\n'

setup: $(STAMP) ## make .venv with the tested versions (a no-op while nothing changed)

# A given torch build is always installed, even when .venv is up to date.
ifneq ($(strip $(TORCH_INSTALL)),)
$(STAMP): FORCE
endif

$(STAMP): pyproject.toml constraints.txt
	@if $(PY) -m pip --version >/dev/null 2>&1; then $(PY) -c '$(CHECK_PYTHON)'; else \
		command -v "$(PYTHON)" >/dev/null || { echo "$(PYTHON) is not on the PATH: install Python 3.11 or newer, or name one: make setup PYTHON=/path/to/python3" >&2; exit 2; }; \
		"$(PYTHON)" -c '$(CHECK_PYTHON)' && echo "making $(VENV) with $$("$(PYTHON)" --version)" && "$(PYTHON)" -m venv $(VENV); fi
	@echo "installing the versions of constraints.txt into $(VENV) (the first time: a few minutes and gigabytes)"
	@$(PY) -m pip install -q --require-hashes --no-deps -r constraints.txt
	@if [ -n '$(strip $(TORCH_INSTALL))' ]; then echo 'installing your torch: $(TORCH_INSTALL)'; \
		$(PY) -m pip uninstall -q -y torch && $(PY) -m pip install -q $(TORCH_INSTALL); fi
	@$(PY) -m pip install -q '$(TORCH)'
	@$(PY) -m pip install -q --no-deps --no-build-isolation -e .
	@$(PY) -m pip check >/dev/null || { $(PY) -m pip check; exit 1; }
	@touch $(STAMP)
	@echo "$(VENV) is ready"

demo: setup ## run the whole pipeline on this machine, in minutes: cache, train, evaluate, compare
	@$(PY) -m jobs.demo

# Each process has its own Ray, cache and MLflow store, so the tests of a file stay in one process. Long files come first.
test: setup ## run the quick tests (no slow ones, no GPU), in two processes
	@$(PY) -m pytest -m "not slow and not gpu" -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --durations 25

test-all: setup ## run every test that this machine can run
	@$(PY) -m pytest

fuzz: setup ## give every reader 10,000 damaged and hostile inputs, in two processes (minutes; FUZZ="--inputs 500 --seed 2 --reader video")
	@$(PY) -m tests.fuzz $(FUZZ)

lint: setup ## check format, lint, types and the documentation's links
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m basedpyright $(CODE)
	@$(BUILD_DOCS)

# Strict: a broken link, anchor or API name is an error. Neither the build nor the pages need the network.
BUILD_DOCS = NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build
docs: setup ## build the documentation into build/docs (open build/docs/index.html)
	@$(BUILD_DOCS)

# uv is on PyPI (pip install uv). torch's own packages are omitted; see the head of constraints.txt.
CUDA_PACKAGES := cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc nvidia-cuda-runtime \
	nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse nvidia-cusparselt-cu13 \
	nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx triton
lock: ## update constraints.txt with digests (needs uv; LOCK="--upgrade" for newer releases)
	@sed -n '/^#/p' constraints.txt > constraints.new
	@echo '$(TORCH)' | cat constraints.txt - > constraints.known
	@uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		$(if $(LOCK),$(LOCK),-c constraints.known) $(addprefix --no-emit-package ,torch $(CUDA_PACKAGES)) -o constraints.uv >/dev/null
	@sed "s/ ; python_full_version < '3.14' and .*platform_python_implementation == 'CPython' and sys_platform == 'linux' / /" constraints.uv \
		>> constraints.new && mv constraints.new constraints.txt
	@rm -f constraints.uv constraints.known

audit: setup ## list advisories and licences of the installed packages (ADVISORY_DB=/path to a copy of an OSV database)
	@$(PY) -m tests.audit $(if $(ADVISORY_DB),--database '$(ADVISORY_DB)')

teacher: setup ## train the built-in teacher again (half an hour) and put it into the package
	@$(PY) -m jobs.train --preset demo --role teacher --model teacher-small --data.kind synthetic --data.synthetic-videos 3000 \
		--steps 6000 --batch 4 --workers 1 --optimiser.lr 1e-3 --optimiser.ema 0.995 --optimiser.warmup-steps 100 \
		--checkpoint-every 500 --half --out runs/builtin-teacher
	@cp runs/builtin-teacher/model.safetensors runs/builtin-teacher/model.json vos/models/builtin_teacher/

results: setup ## run the missing runs of the results' protocol (days; DAVIS_ROOT=/path, ARGS="--stills … --docs …") and rebuild its page
	@$(PY) -m jobs.report $(ARGS)

bench: setup ## measure the cache with python -m jobs.benchmark (about ten minutes)
	@$(PY) -m jobs.benchmark cache

# MLflow's job workers (7 processes for unused features) stay off. The store's address may hold a password, so it is passed in the
# environment: every account of the machine can read command lines.
ui: setup ## browse runs and models with MLflow on 127.0.0.1:5000
	@case "$$MLFLOW_TRACKING_URI" in http://*|https://*) echo "MLFLOW_TRACKING_URI names a server: open $$($(PY) -c 'import os, vos.redaction as r; print(r.without_secret(os.environ["MLFLOW_TRACKING_URI"]))')"; exit 0;; esac; \
	mkdir -p runs && echo "MLflow: http://127.0.0.1:$(UI_PORT)/#/experiments (starts in 20 s; stop with Ctrl-C)" && \
	echo "best J&F per parameter: open the experiment tune, then Views (top right); evaluate, train and cache have one too" && \
	MLFLOW_BACKEND_STORE_URI="$${MLFLOW_TRACKING_URI:-sqlite:///runs/mlflow.db}" MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
	exec $(PY) -m mlflow ui --host 127.0.0.1 --port "$(UI_PORT)" --workers 1

cluster-up: setup ## start a Ray head on loopback with token authentication (docs/cluster.md)
	@$(PY) cluster/local_head.py up

cluster-down: setup ## stop that Ray head, and no other one
	@$(PY) cluster/local_head.py down

clean: ## remove caches and build leftovers; keeps .venv and your runs/
	@rm -rf build dist ./*.egg-info .pytest_cache .ruff_cache .hypothesis
	@find . \( -name .venv -o -name runs -o -name .git \) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "kept: .venv (rm -rf .venv for a new set-up) and runs/ (caches, checkpoints, MLflow)"
