# Each target makes its own virtual environment the first time; nothing else has to be installed first
# but Python 3.11, a C++20 compiler and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(wildcard runtime/native/*)

.PHONY: demo test bench lint format

$(VENV)/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/dev: $(VENV)/pip pyproject.toml $(NATIVE)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(VENV)/bench: $(VENV)/dev
	$(BIN)/python -m pip install --quiet --editable '.[dev,bench]'
	touch $@

demo: $(VENV)/dev
	$(BIN)/cdpgen demo

test: $(VENV)/dev
	$(BIN)/python -m pytest

bench: $(VENV)/bench
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'runtime/native/*.cpp' 'runtime/native/*.h')
	$(BIN)/cdpgen build schemas --check

format: $(VENV)/dev
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files 'runtime/native/*.cpp' 'runtime/native/*.h')
