# `make demo` and `make test` each set up .venv by themselves. Prerequisites: Python 3.11+ and make.
#
# Where pip would bring PyTorch's CUDA build (Linux x86-64: gigabytes), point it at PyTorch's own CPU index:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
TORCH_INDEX ?=
TORCH := torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
# A set-up is good for one pyproject.toml: the stamp carries its checksum, so that an unchanged tree needs no network.
STAMP := $(VENV)/.ready-$(shell cksum pyproject.toml | cut -d' ' -f1)
# What the tests use beyond Python, where it is to be had: tried once.
BEYOND := $(VENV)/.beyond-python

# Test files run side by side, as many as there are cores to spare. TEST_JOBS=0: one after another, in one process.
TEST_JOBS ?= 2

# ONNX Runtime sends usage data on Linux unless this is set before it is imported.
export ORT_DISABLE_TELEMETRY := 1

.PHONY: demo test test-all lint setup demo-bundle clean

demo: $(STAMP)
	$(BIN)/outrider demo $(ARGS)

test: $(STAMP) $(BEYOND) lint
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile -m "not slow and not gpu"

test-all: $(STAMP) $(BEYOND) lint
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile -m "not gpu"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The certified bundle that the base wheel carries (edge/outrider_edge/demo).
demo-bundle: $(STAMP)
	$(BIN)/outrider demo --write-device-bundle edge/outrider_edge/demo

setup: $(STAMP)

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Outrider needs Python 3.11 or newer; run: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import torch, sys; sys.exit(not torch.__version__.startswith("2.13.0"))' 2>/dev/null || \
		{ echo "setting up $(VENV): PyTorch (once)"; $(BIN)/pip install -q --disable-pip-version-check $(TORCH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)); }
	@echo "setting up $(VENV): Outrider and what it needs"
	@$(BIN)/pip install -q --disable-pip-version-check -e '.[all,dev]'
	@rm -f $(VENV)/.ready-* && touch $@

$(BEYOND): tools/get_mosquitto.sh tools/get_node_packages.sh tests/other_language/package-lock.json | $(STAMP)
	@tools/get_mosquitto.sh $(VENV)/mosquitto
	@tools/get_node_packages.sh $(VENV)/node
	@touch $@

clean:
	rm -rf $(VENV) .outrider dist .mypy_cache .ruff_cache .pytest_cache
