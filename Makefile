# `make demo` and `make test` do all their set-up: they need Python >= 3.10, make and pip.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable
# Two processes, each with one thread, are what two cores do best.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2

.PHONY: demo test test-all about lint benchmarks clean

demo: $(VENV)/with-demo
	$(BIN)/chunkjac demo

test: ABOUT = about 4 minutes on two cores, when all is installed; `make test-all` runs every test, in about 30
test: about lint
	$(PYTEST)

test-all: ABOUT = every test, about half an hour on two cores, when all is installed; `make test` takes about 4
test-all: about lint
	$(PYTEST) -m "" --shuffle

about:
	@echo 'make: $(ABOUT)'

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
