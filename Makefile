# `make bench` and `make test` need Python >= 3.10 and a C++17 compiler, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_CONSTRAINT=constraints.txt $(BIN)/pip --disable-pip-version-check
SOURCES := setup.py pyproject.toml CMakeLists.txt constraints.txt $(wildcard csrc/*.cpp csrc/cpu/*)

.PHONY: bench bench-layers test test-all sanitize lint format clean

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

# Without torch: what it builds is no Python module.
$(VENV)/.sanitize:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q cmake ninja
	touch $@

$(VENV)/.lint: $(VENV)/.base
	$(PIP) install -q ruff clang-format
	touch $@

bench: $(VENV)/.bench  ## parity, then speed against plain PyTorch; DATA=dir takes wavs
	$(BIN)/hifigan-fast bench $(if $(DATA),--data '$(DATA)')

bench-layers: $(VENV)/.bench  ## layers, a whole step against PyTorch's own fast ways, other shapes, memory
	$(BIN)/python -m benchmarks.layers --out bench-out/layers.json
	$(BIN)/python -m benchmarks.rivals --out bench-out/rivals.json
	$(BIN)/python -m benchmarks.shapes --out bench-out/shapes.json

# A worker a core; each takes about 1.5 GB.
PYTEST = $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist worksteal --durations 10

test: $(VENV)/.test
	$(PYTEST) $(ARGS)

test-all: $(VENV)/.test  ## and what is exhaustive: all generated cases, every configuration for five targets
	$(PYTEST) -m '' $(ARGS)

sanitize: $(VENV)/.sanitize  ## the kernels over odd shapes, under AddressSanitizer and UndefinedBehaviorSanitizer
	$(BIN)/cmake -S . -B build/sanitize -G Ninja -DCMAKE_MAKE_PROGRAM='$(abspath $(BIN)/ninja)' -DHIFIGAN_SANITIZE=ON
	$(BIN)/cmake --build build/sanitize
	build/sanitize/odd_shapes

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror csrc/*.cpp csrc/*/*

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i csrc/*.cpp csrc/*/*

clean:
	rm -rf $(VENV) build bench-out hifigan_fast/*.so
