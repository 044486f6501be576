# These do all their own set-up:  make demo, make quick  and  make test.
# PYTHON=python3.12 picks another Python; OUT=folder is where the demo writes. EXTRAS=test,torch,rtx also installs
# PyTorch (6 GB) and TensorRT-RTX, without which the tests of networks, export and compilation are skipped.
# On a machine with an NVIDIA GPU and PyTorch, but no network:  make test-gpu WHEELS=folder  and  make bench-gpu
# WHEELS=folder; benchmarks/gpu/wheels.py makes the folder elsewhere. GPU_JSON=file is where the result goes, COMMIT
# that of a checkout without its .git, BENCH further options of benchmarks/gpu/bench.py.

PYTHON ?= python3
VENV   ?= .venv
OUT    ?= demo-out
EXTRAS ?= test
GPU_VENV ?= build/gpu
BIN    := $(VENV)/bin
comma  := ,
TESTED := $(VENV)/installed-for-$(subst $(comma),-,$(EXTRAS))

.PHONY: help demo quick test lint types check bench clean test-gpu bench-gpu gpu-environment

# With wheels an environment of them on top of PYTHON, else PYTHON as it is.
GPU := PYTHONPATH="$(CURDIR)" $(if $(WHEELS),$(GPU_VENV)/bin/python,$(PYTHON))
GPU_OPTIONS := $(if $(GPU_JSON),--json "$(GPU_JSON)") $(if $(COMMIT),--commit "$(COMMIT)")

help:
	@echo "make demo    set up, fetch models and a sample clip, process it, say where the results are"
	@echo "make quick   set up and run the tests that need neither broker, camera, browser nor PyTorch: 90 seconds"
	@echo "make test    set up and run all tests"
	@echo "make lint    ruff: lint and format"
	@echo "make types   mypy"
	@echo "make check   test, lint and types"
	@echo "make bench   the runtime's own cost, and frames/s against the bound of this machine"
	@echo "make test-gpu    the tests that need an NVIDIA GPU, and memcheck on the kernels"
	@echo "make bench-gpu   frames/s by number of streams, and crops/s by batch, on an NVIDIA GPU"
	@echo "make clean   remove the virtual environment and what was made"

demo: $(VENV)/installed
	$(BIN)/posestream demo --out $(OUT)

# One worker per processor, at most four, since each may load PyTorch. The tests that measure time run alone, afterwards.
PARALLEL := -n auto --maxprocesses 4 --dist loadgroup

quick: $(TESTED)
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not alone and not gpu"

test: $(TESTED)
	$(BIN)/python -m pytest $(PARALLEL) -m "not alone"
	$(BIN)/python -m pytest -m alone

lint: $(TESTED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(TESTED)
	$(BIN)/mypy

check: test lint types

bench: $(VENV)/installed
	$(BIN)/python benchmarks/runtime.py
	$(BIN)/python benchmarks/peers.py --only mediapipe --streams 1,4 --repeat 1

test-gpu: gpu-environment
	$(GPU) benchmarks/gpu/run_tests.py $(GPU_OPTIONS)

bench-gpu: gpu-environment
	$(GPU) benchmarks/gpu/bench.py $(GPU_OPTIONS) $(BENCH)

gpu-environment:
	@$(if $(WHEELS),$(PYTHON) benchmarks/gpu/environment.py $(GPU_VENV) --wheels "$(WHEELS)",:)

# The stamps make every second call start at once, and work without a network.
$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(TESTED): pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS)]"
	@touch $@ $(VENV)/installed

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else \
	    f"posestream needs Python 3.11 or newer, $(PYTHON) is {v.major}.{v.minor}; try: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) $(OUT) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
