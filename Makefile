# Each target makes its own virtual environment the first time; nothing else has to be installed first
# but Python 3.11, a C++20 compiler and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(wildcard runtime/native/*.* runtime/native/parquet/*)

.PHONY: demo test servers engines test-asan fuzz bench lint format

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
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Two more servers for tests/integration/stores, where there is Go: five minutes of two cores, the first time.
servers: $(VENV)/pip
	GOBIN=$(CURDIR)/$(BIN) go install github.com/minio/minio@latest
	GOBIN=$(CURDIR)/$(BIN) go install github.com/fsouza/fake-gcs-server@latest

# ClickHouse (chdb) and Spark for tests/integration: a minute, and a GB.
engines: $(VENV)/dev
	$(BIN)/python -m pip install --quiet --editable '.[dev,bench,spark]'

# The whole suite, or what PYTEST says of it, against a core with AddressSanitizer and UBSan, which is
# installed into an environment of its own; all that it needs beside the core it finds in the other one.
ASAN := build/asan
PYTEST ?= tests

$(ASAN)/bin/cdpgen: $(VENV)/dev $(NATIVE) $(shell find generator runtime/cdp_runtime -type f -not -name '*.pyc')
	test -x $(ASAN)/bin/python || $(BIN)/python -m venv $(ASAN)
	$(BIN)/python -c "import sysconfig as s; print(s.get_path('purelib'))" \
	    > $$($(ASAN)/bin/python -c "import sysconfig as s; print(s.get_path('purelib'))")/dev.pth
	$(ASAN)/bin/python -m pip install --quiet --force-reinstall --no-deps -Cbuild-dir=$(ASAN)/core \
	    -Ccmake.build-type=RelWithDebInfo -Ccmake.define.CDP_SANITIZE=ON -Cinstall.strip=false .
	touch $@

# Captured by pytest a report would be gone with the process. Leaks are not looked for, as the interpreter
# itself never frees everything; `make fuzz` does. What is freed is kept from use only up to a bound, for the
# tests that measure memory.
test-asan: $(ASAN)/bin/cdpgen
	ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=16 UBSAN_OPTIONS=print_stacktrace=1 \
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
	$(ASAN)/bin/python -m pytest --capture=sys $(PYTEST)

# For FUZZ_SECONDS; the same inputs each time, but for another FUZZ_SEED.
FUZZ_SECONDS ?= 30
FUZZ_SEED ?= 1

fuzz: $(VENV)/dev
	$(MAKE) --no-print-directory --silent -C tests/fuzz
	$(BIN)/python -m tests.fuzz.tables build/fuzz/tables.bin
	build/fuzz/fuzz build/fuzz/tables.bin --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED) --out build/fuzz

bench: $(VENV)/bench
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only \
	    --benchmark-json=build/bench.json

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.cpp' '*.h')
	$(BIN)/cdpgen build schemas --check

format: $(VENV)/dev
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files '*.cpp' '*.h')
