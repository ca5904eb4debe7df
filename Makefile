# make demo: set up if needed, then the main job on real data.   make test: set up if needed, then the tests.
# make test-vllm: the tests against a real vLLM on the CPU, in an environment of its own; 4 GB and a quarter of an hour.
PYTHON ?= python3
VENV ?= .venv
VENV_VLLM ?= .venv-vllm
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Tests and demo use what packages carry; nothing is looked up on a model hub.
export HF_HUB_OFFLINE ?= 1

.PHONY: setup demo test test-vllm lint docs clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "error: gendistill needs Python 3.10 or newer; name one with make PYTHON=python3.12 setup"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	# torch first and by itself: the plain version is the CPU build where one is on offer, several GB smaller
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	# unpack the demo's generator into the user's cache, once; about a minute
	$(BIN)/python -c 'from gendistill.models import resolve; resolve("builtin:gemma-3-270m")'
	@touch $(READY)

demo: $(READY)
	$(BIN)/gendistill generate --dataset builtin:bbc-news --per-class 10 --out runs/bbc

test: $(READY)
	$(BIN)/python -m pytest

# The set-up says in one line why vLLM cannot be had here (status 3), which is no failure of ours
test-vllm: $(READY)
	@scripts/setup_vllm_cpu.sh $(VENV_VLLM) $(PYTHON); status=$$?; \
	  if [ $$status -eq 3 ]; then echo "test-vllm is skipped: vLLM cannot be installed here"; exit 0; fi; \
	  [ $$status -eq 0 ] || exit $$status; set -ex; \
	  VENV_VLLM=$(VENV_VLLM) $(BIN)/python -m pytest tests/with_vllm/test_vllm_server.py; \
	  $(VENV_VLLM)/bin/python -m pytest tests/with_vllm/test_vllm_in_process.py; \
	  $(VENV_VLLM)/bin/python -m pytest tests/with_vllm/test_vllm_in_ray.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(VENV_VLLM) build *.egg-info
