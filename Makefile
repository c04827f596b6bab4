# Two commands do everything on a fresh machine: `make demo` and `make test`.
# PYTHON picks the interpreter that the virtual environment is made with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test lint types layers unit bench clean

# What Python has compiled once it needn't compile again at every start: the virtual environment is ours.
demo: $(VENV)/.cpu
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/toolkit demo --output .demo

test: $(VENV)/.dev lint types layers unit

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

layers: $(VENV)/.dev
	$(BIN)/lint-imports

unit: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Everything that is measured against peers; each writes a record under benchmarks/results.
bench: $(VENV)/.dev
	$(BIN)/python benchmarks/int8_onnxruntime.py
	$(BIN)/python benchmarks/calibration.py --work .bench
	$(BIN)/python benchmarks/accuracy_budget.py --work .bench
	$(BIN)/python benchmarks/histograms.py

$(VENV)/.cpu: pyproject.toml constraints.txt
	$(MAKE) --no-print-directory $(BIN)/python
	$(PIP) install --no-compile -c constraints.txt -e '.[cpu]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	$(MAKE) --no-print-directory $(BIN)/python
	$(PIP) install --no-compile -c constraints.txt -e '.[dev]'
	touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is older than Python 3.11"; echo "  try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) .demo build dist *.egg-info
