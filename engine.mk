# Real vLLM on CPU cores, in an environment of its own (about 3.4 GB): the other targets never need it.
# torch==2.13.0+cpu is not on PyPI. Where pip is not set up to find it, name a place that has it:
#   make engine ENGINE_PIP_ARGS='--extra-index-url <PyTorch's index of CPU wheels>'   (or: --find-links DIR)
# A GPU host uses its own vLLM instead: SCEPSY_ENGINE_PYTHON=/path/to/python make test-engine
ENGINE_VENV := .venv-engine
ENGINE_PYTHON ?= $(shell command -v python3.11 || command -v python3)
ENGINE_PIP_ARGS ?=
ENGINE_STAMP := $(ENGINE_VENV)/.installed

.PHONY: engine test-engine

$(ENGINE_STAMP): constraints-engine.txt
	rm -rf $(ENGINE_VENV)
	$(ENGINE_PYTHON) -m venv $(ENGINE_VENV)
	$(ENGINE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(ENGINE_PIP_ARGS) -r constraints-engine.txt
	$(ENGINE_VENV)/bin/python -c 'import vllm, torch, transformers; print("vLLM", vllm.__version__, "on torch", torch.__version__)'
	@touch $@

engine: $(ENGINE_STAMP)

AGENTS_STAMP := $(VENV)/.agents

$(AGENTS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,agents]'
	@touch $@

test-engine: $(AGENTS_STAMP) $(ENGINE_STAMP)
	$(BIN)/pytest -m engine -x --durations=0
