# `make bench` and `make test` need Python >= 3.10 and a C++17 compiler, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_CONSTRAINT=constraints.txt $(BIN)/pip --disable-pip-version-check
SOURCES := setup.py pyproject.toml CMakeLists.txt constraints.txt $(wildcard csrc/*.* csrc/cpu/*)

.PHONY: bench bench-all gpu bench-layers readme-figures test test-all ptx wild sanitize dist docs types lint format clean

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

# Without torch, as the docs: what it builds is no Python module.
$(VENV)/.sanitize:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q cmake ninja
	touch $@

$(VENV)/.dist: $(VENV)/.test
	$(PIP) install -q build
	touch $@

$(VENV)/.docs:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q mkdocs mkdocs-material 'mkdocstrings[python]' ruff
	touch $@

$(VENV)/.lint: $(VENV)/.base
	$(PIP) install -q clang-format mypy ruff
	touch $@

bench: $(VENV)/.bench  ## parity, then speed against plain PyTorch; DATA=dir takes wavs, ARGS=--full measures more
	$(BIN)/hifigan-fast bench $(if $(DATA),--data '$(DATA)') $(ARGS)

bench-all: $(VENV)/.bench  ## every project's discriminators, every step and way; on a GPU where there is one
	for workload in hifigan vits rvc bigvgan; do \
	  $(BIN)/hifigan-fast bench --full --scaling --workload $$workload --out bench-out/$$workload $(ARGS) || exit; \
	done

# What is worth most comes first; what fails leaves the rest.
gpu: $(VENV)/.test  ## on a GPU: kernels compiled, checked, timed, tuned and tested; results in bench-out/gpu
	-for precision in bf16 fp32 fp16; do $(BIN)/python -m hifigan_fast.cli warm --precision $$precision & done; wait
	-$(BIN)/python -m pytest -q tests/gpu -k first_contact -n 8 $(ARGS)
	-$(BIN)/python -m hifigan_fast.cli bench --out bench-out/gpu --json bench-out/gpu/bench.json
	-for dtype in bfloat16 tf32; do for step in discriminator generator; do \
	  $(BIN)/python -m benchmarks.launches --dtype $$dtype --step $$step --out bench-out/gpu/launches-$$dtype-$$step.json; \
	done; done
	-$(BIN)/python -m hifigan_fast.cli tune --out bench-out/gpu/configs.json
	-$(BIN)/python -m pytest -q tests/gpu -n 8 -rf $(ARGS)

bench-layers: $(VENV)/.bench  ## layers, other shapes, memory
	$(BIN)/python -m benchmarks.layers --out bench-out/layers.json
	$(BIN)/python -m benchmarks.shapes --out bench-out/shapes.json

readme-figures: $(VENV)/.bench  ## README's table and docs/bench.svg, of the newest run in benchmarks/results
	$(BIN)/python -m benchmarks.readme

# A worker a core; each takes up to 3 GB.
PYTEST = $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist worksteal --durations 10

test: $(VENV)/.test
	$(PYTEST) $(ARGS)

test-all: $(VENV)/.test  ## and what is exhaustive: all generated cases, every configuration for five targets
	$(PYTEST) -m '' $(ARGS)

ptx: $(VENV)/.test  ## every compiled kernel of a training step, in every arithmetic, executed without a GPU
	TRITON_INTERPRET=0 $(BIN)/python -m pytest -q tests/ptx -m ''

# Without what those packages need: their discriminators are loaded by file, and need PyTorch only.
build/wild: $(VENV)/.test
	$(PIP) install -q --no-deps --target $@ so-vits-svc-fork coqui-tts descript-audio-codec vocos

wild: build/wild  ## accelerate() on published packages' own discriminators
	PYTHONPATH=$< $(BIN)/python -m pytest -q tests/wild/test_real.py $(ARGS)

sanitize: $(VENV)/.sanitize  ## the kernels over odd shapes, under AddressSanitizer and UndefinedBehaviorSanitizer
	$(BIN)/cmake -S . -B build/sanitize -G Ninja -DCMAKE_MAKE_PROGRAM='$(abspath $(BIN)/ninja)' -DHIFIGAN_SANITIZE=ON
	$(BIN)/cmake --build build/sanitize
	build/sanitize/odd_shapes

dist: $(VENV)/.dist  ## a source distribution, a wheel made of it, and the parity gate on what that installs
	rm -rf dist build/installed
	PIP_CONSTRAINT='$(abspath constraints.txt)' $(BIN)/python -m build
	$(PIP) install -q --no-deps --target build/installed dist/*.whl
	cd build/installed && $(abspath $(BIN))/python -c 'import hifigan_fast._cpu'
	cd build/installed && $(abspath $(BIN))/python -m hifigan_fast.cli check --segment 256

docs: $(VENV)/.docs  ## the documentation as a site, in build/site
	PATH="$(abspath $(BIN)):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

types: $(VENV)/.lint  ## the annotations of the public surface, and a user's code against them
	$(BIN)/mypy

lint: $(VENV)/.lint types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror csrc/*.* csrc/*/*

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i csrc/*.* csrc/*/*

clean:
	rm -rf $(VENV) build dist bench-out hifigan_fast/*.so
