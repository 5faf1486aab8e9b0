# `make` alone lists the targets. Everything runs from .venv, which `make setup` makes once and renews only when
# pyproject.toml or constraints.txt change. Nothing here needs the network while that is fresh.
#
# Your own build of torch (a GPU build, or the small CPU build in place of PyPI's large default on Linux) goes in first:
#   make setup TORCH_INSTALL="torch==2.13.0 --index-url https://download.pytorch.org/whl/cu130"
#   make setup TORCH_INSTALL="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
# It is kept from then on, as long as it is of the release in TORCH.

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

# A named torch build is always acted on, even when the set-up is fresh.
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

demo: setup ## the whole pipeline on this machine, in minutes: cache, train, evaluate, compare
	@$(PY) -m jobs.demo

# Each process has its own Ray, cache and MLflow store, so a file stays with one; in the files' order, since the long ones come first.
test: setup ## the quick tests (no slow ones, no GPU), in two processes
	@$(PY) -m pytest -m "not slow and not gpu" -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --durations 25

test-all: setup ## every test that this machine can run
	@$(PY) -m pytest

fuzz: setup ## 10,000 damaged and hostile inputs to every reader, in two processes (minutes; FUZZ="--inputs 500 --seed 2 --reader video")
	@$(PY) -m tests.fuzz $(FUZZ)

lint: setup ## format, lint, types and the documentation's links
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m basedpyright $(CODE)
	@$(BUILD_DOCS)

# Strict: a link, an anchor or a name of the API that leads nowhere is an error. Needs no network, and neither do the pages.
BUILD_DOCS = NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build
docs: setup ## build the documentation into build/docs (open build/docs/index.html)
	@$(BUILD_DOCS)

# uv comes from PyPI (pip install uv). torch's own packages are left out: see the head of constraints.txt.
CUDA_PACKAGES := cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc nvidia-cuda-runtime \
	nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse nvidia-cusparselt-cu13 \
	nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx triton
lock: ## renew constraints.txt with digests (needs uv; LOCK="--upgrade" for newer releases)
	@sed -n '/^#/p' constraints.txt > constraints.new
	@echo '$(TORCH)' | cat constraints.txt - > constraints.known
	@uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		$(if $(LOCK),$(LOCK),-c constraints.known) $(addprefix --no-emit-package ,torch $(CUDA_PACKAGES)) -o constraints.uv >/dev/null
	@sed "s/ ; python_full_version < '3.14' and .*platform_python_implementation == 'CPython' and sys_platform == 'linux' / /" constraints.uv \
		>> constraints.new && mv constraints.new constraints.txt
	@rm -f constraints.uv constraints.known

audit: setup ## list known advisories for what is installed (ADVISORY_DB=/path to a copy of an OSV database) and the licences
	@$(PY) -m tests.audit $(if $(ADVISORY_DB),--database '$(ADVISORY_DB)')

teacher: setup ## train the built-in teacher again (half an hour) and put it into the package
	@$(PY) -m jobs.train --preset demo --role teacher --model teacher-small --data.kind synthetic --data.synthetic-videos 3000 \
		--steps 6000 --batch 4 --workers 1 --optimiser.lr 1e-3 --optimiser.ema 0.995 --optimiser.warmup-steps 100 \
		--checkpoint-every 500 --half --out runs/builtin-teacher
	@cp runs/builtin-teacher/model.safetensors runs/builtin-teacher/model.json vos/models/builtin_teacher/

results: setup ## run what is missing of the results' protocol (hours; DAVIS_ROOT=/path, ARGS="--docs …" for your own) and rebuild its page
	@$(PY) -m jobs.report $(ARGS)

bench: setup ## measure the cache with python -m jobs.benchmark (some ten minutes)
	@$(PY) -m jobs.benchmark cache

# MLflow's job workers (7 processes for features that are not used here) stay off. The store, which may hold a password, goes by the
# environment: everybody on the machine can read command lines.
ui: setup ## browse runs and models with MLflow on 127.0.0.1:5000
	@case "$$MLFLOW_TRACKING_URI" in http://*|https://*) echo "MLFLOW_TRACKING_URI is a server already: open $$($(PY) -c 'import os, vos.redaction as r; print(r.without_secret(os.environ["MLFLOW_TRACKING_URI"]))')"; exit 0;; esac; \
	mkdir -p runs && echo "MLflow: http://127.0.0.1:$(UI_PORT)/#/experiments (20 s to come up; stop with Ctrl-C)" && \
	echo "best J&F per parameter: open the experiment tune, then Views (top right); evaluate, train and cache have one too" && \
	MLFLOW_BACKEND_STORE_URI="$${MLFLOW_TRACKING_URI:-sqlite:///runs/mlflow.db}" MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
	exec $(PY) -m mlflow ui --host 127.0.0.1 --port "$(UI_PORT)" --workers 1

cluster-up: setup ## start a Ray head on loopback with token authentication (cluster/README.md)
	@$(PY) cluster/local_head.py up

cluster-down: setup ## stop that head, and no other Ray
	@$(PY) cluster/local_head.py down

clean: ## remove caches and build leftovers; keeps .venv and your runs/
	@rm -rf build dist ./*.egg-info .pytest_cache .ruff_cache .hypothesis
	@find . \( -name .venv -o -name runs -o -name .git \) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "kept: .venv (rm -rf .venv starts the set-up from nothing) and runs/ (caches, checkpoints, MLflow)"
