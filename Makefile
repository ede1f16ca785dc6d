# Everything runs in .venv, which the first target you ask for creates. Needed beforehand: python3 (3.11 or newer) and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test bench format clean distclean
.DEFAULT_GOAL := help

help:
	@echo "make demo       quantize the bundled model plainly, with equalization and with all there is"
	@echo "make test       lint, types and tests"
	@echo "make bench      cost, latency and accuracy tables (long; the real models are optional)"
	@echo "make format     format the code"
	@echo "make clean      remove caches and outputs; make distclean also removes $(VENV)"

# Installs once, and again when the dependencies may have changed.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "EquiQuant needs Python 3.11 or newer. Install one and run: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot create virtual environments. On Debian or Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	@echo "Installing into $(VENV) (once)..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[dev,images]'
	@touch $@

demo: $(STAMP)
	@$(BIN)/equiquant demo

test: $(STAMP)
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet || { $(BIN)/ruff format --check; exit 1; }
	@$(BIN)/mypy
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2  # a core for each of the two

bench: $(STAMP)
	@$(BIN)/python -m benchmarks.quantize_cost
	@$(BIN)/python -m benchmarks.latency
	@if [ -d ../shared/data ]; then $(BIN)/python -m benchmarks.accuracy && $(BIN)/python -m benchmarks.other_toolchains; \
		else echo "No ../shared/data: accuracy on real models not measured."; fi

format: $(STAMP)
	@$(BIN)/ruff check --quiet --fix --exit-zero
	@$(BIN)/ruff format --quiet

clean:
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist demo-output
	@find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	@rm -rf $(VENV)
