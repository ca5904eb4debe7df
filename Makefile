# make demo: set up if needed, then the main job on real data.   make test: set up if needed, then the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Tests and demo use what packages carry; nothing is looked up on a model hub.
export HF_HUB_OFFLINE ?= 1

.PHONY: setup demo test lint docs clean

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

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info
