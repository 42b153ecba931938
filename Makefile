# `make bench` and `make test` need Python >= 3.10 and a C++17 compiler, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_CONSTRAINT=constraints.txt $(BIN)/pip --disable-pip-version-check
SOURCES := setup.py pyproject.toml CMakeLists.txt constraints.txt $(wildcard csrc/*.cpp csrc/cpu/*)

.PHONY: bench bench-layers test lint format clean

# torch first: constraints.txt pins it, and what depends on it must not bring another.
$(VENV)/.base: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q torch
	touch $@

$(VENV)/.bench: $(VENV)/.base $(SOURCES)
	$(PIP) install -q -e '.[bench]'
	touch $@

$(VENV)/.test: $(VENV)/.base $(SOURCES)
	$(PIP) install -q -e '.[test]'
	touch $@ $(VENV)/.bench

$(VENV)/.lint: $(VENV)/.base
	$(PIP) install -q ruff clang-format
	touch $@

bench: $(VENV)/.bench  ## parity, then speed against plain PyTorch; DATA=dir takes wavs
	$(BIN)/hifigan-fast bench $(if $(DATA),--data '$(DATA)')

bench-layers: $(VENV)/.bench  ## layer by layer, then a whole step against PyTorch's own fast ways
	$(BIN)/python -m benchmarks.layers --out bench-out/layers.json
	$(BIN)/python -m benchmarks.rivals --out bench-out/rivals.json

test: $(VENV)/.test
	$(BIN)/python -m pytest -q --durations=10 $(ARGS)

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror csrc/*.cpp csrc/cpu/*

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i csrc/*.cpp csrc/cpu/*

clean:
	rm -rf $(VENV) build bench-out hifigan_fast/*.so
