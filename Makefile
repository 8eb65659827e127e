# Every target sets up .venv by itself; needs Python >= 3.11, make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo evaluation figures test lint types layers docs pictures unit unit-newest test-slow test-cluster bench setup clean
.DEFAULT_GOAL := help

help:
	@echo "make demo | evaluation | figures | test | docs | pictures | lint | bench | test-slow | engine | test-engine | test-cluster | clean"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Scepsy needs Python >= 3.11 (set PYTHON=/path/to/python3.11)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(STAMP)

demo: $(STAMP)
	$(BIN)/scepsy demo -o demo-out

# The whole evaluation into paper_figures/data, then figures and page. Says first how long it will take; goes on where it was
# stopped. SCALE is smoke, quick, full or long, JOBS the number of processes. Commit first: rows name the commit.
SCALE ?= full
JOBS ?= 2

evaluation: $(STAMP)
	$(BIN)/scepsy experiment run --scale $(SCALE) -j $(JOBS) -o paper_figures/data --estimate
	$(BIN)/scepsy experiment run --scale $(SCALE) -j $(JOBS) -o paper_figures/data
	$(BIN)/scepsy figures -o figures
	$(BIN)/scepsy experiment report -r paper_figures/data -o figures/evaluation.html

figures: $(STAMP)
	$(BIN)/scepsy figures -o figures

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

layers: $(STAMP)
	$(BIN)/lint-imports --no-cache

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet -f .mkdocs.yml

pictures: $(STAMP)
	$(BIN)/python docs/pictures.py

unit: $(STAMP)
	$(BIN)/pytest -n 2 -m "not engine and not cluster and not slow"

test: lint types layers docs unit

# The same unit tests on the newest Python >= 3.12 of this machine, in a .venv of its own; says so where there is none.
NEWEST ?= $(shell for p in python3.14 python3.13 python3.12 $$HOME/.pyenv/versions/3.1[2-9]*/bin/python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && command -v $$p; done | tail -n 1)

unit-newest:
ifeq ($(NEWEST),)
	@echo "no Python >= 3.12 here: give NEWEST=/path/to/python"
else
	@$(NEWEST) --version
	$(MAKE) unit VENV=.venv-newest PYTHON=$(NEWEST)
endif

test-slow: $(STAMP)
	$(BIN)/pytest -n 2 -m "slow and not engine and not cluster"

bench: $(STAMP)
	$(BIN)/pytest tests -m "not engine and not cluster" --benchmark-only --benchmark-enable

include engine.mk

test-cluster: $(STAMP)
	$(BIN)/pytest -m cluster

clean:
	rm -rf $(VENV) .venv-newest .site demo-out .pytest_cache .mypy_cache .ruff_cache .hypothesis
