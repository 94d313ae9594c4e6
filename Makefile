# `make demo` and `make test` do all their set-up: they need Python >= 3.10, make and pip.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable
# Two processes, each with one thread, are what two cores do best.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses 2

.PHONY: demo test test-all lint benchmarks clean

demo: $(VENV)/with-demo
	$(BIN)/chunkjac demo

test: $(VENV)/with-test lint
	$(PYTEST)

test-all: $(VENV)/with-test lint
	$(PYTEST) -m ""

lint: $(VENV)/with-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmarks: $(VENV)/with-bench
	$(BIN)/python -m benchmarks

$(VENV)/with-%: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
