# The two commands of a fresh clone are `make demo` and `make test`; they need Python 3.11 or newer, make and git.
# `make lint` and `make types` are what .ci/run checks besides.

PYTHON ?= python3
VENV ?= .venv
TEST_JOBS ?= 2
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := $(VENV)/bin
PIP := $(BIN)/pip install -qq
SAMPLES := src/nvila/assets/samples
HAS_GPU := $(shell command -v nvidia-smi 2>/dev/null)
CONSTRAINTS := -c constraints.txt $(if $(HAS_GPU),,-c constraints-cpu.txt)
# Read by pip where it builds a package in an environment of its own: the build tools are pinned too.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

DEMO := build/train-demo

TRITON := build/triton-3.9.0

.PHONY: demo train-demo test test-kernels lint types format clean

demo: $(VENV)/.installed
	@$(call ask,--image $(SAMPLES)/sign.png,What does the sign say?)
	@$(call ask,--image $(SAMPLES)/picture.png,What is this?)
	@$(call ask,--video $(SAMPLES)/clip.mp4,Which way does the circle move?)

# The whole pipeline at nano size, from nothing to a model that reads short words; about ten minutes on two cores.
# Stopped, it goes on where it was.
train-demo: $(VENV)/.installed-dev
	$(BIN)/python recipes/nano/demo.py prepare $(DEMO)
	$(BIN)/nvila train recipes/nano/pipeline.toml --assets $(DEMO)/assets --out $(DEMO)/run --export $(DEMO)/model
	$(BIN)/python recipes/nano/demo.py show $(DEMO)
	@$(call ask,--model $(DEMO)/model --image $$(ls $(DEMO)/words/*.png | head -n 1),What does it say?)

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TEST_JOBS) --dist loadfile $(TEST_ARGS)

# The CUDA kernels without a GPU, in Triton's interpreter. It lies apart: torch looks for it on every import.
test-kernels: $(VENV)/.installed-dev $(TRITON)/.installed
	PYTHONPATH=$(TRITON) TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/ops -k triton -rs

$(TRITON)/.installed:
	@echo "installing Triton (a few hundred MB) into $(TRITON)"
	@$(BIN)/pip install -qq --no-deps --target $(TRITON) triton==3.9.0
	@touch $@

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.installed-dev
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

# The question, then the answer, each on a line of its own.
ask = echo "$$ nvila ask $(1) \"$(2)\"" && $(BIN)/nvila ask $(1) "$(2)"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nvila needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

# torch first: where the usual index would bring CUDA to a machine without a GPU, an index of CPU builds is asked.
$(VENV)/.torch: constraints.txt constraints-cpu.txt | $(BIN)/python
	@echo "installing torch (a few hundred MB) into $(VENV)"
	@$(PIP) $(CONSTRAINTS) torch \
		|| $(PIP) $(CONSTRAINTS) torch --no-deps --index-url $(TORCH_CPU_INDEX) \
		|| { echo "no CPU build of torch to be had: set TORCH_CPU_INDEX to an index that has one" >&2; exit 1; }
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.torch
	@echo "installing nvila into $(VENV)"
	@$(PIP) $(CONSTRAINTS) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.torch
	@echo "installing nvila with what its tests need into $(VENV)"
	@$(PIP) $(CONSTRAINTS) -e '.[train,finetune,data,prune,ray,grammar,corpus,dev]'
	@touch $(VENV)/.installed $@
