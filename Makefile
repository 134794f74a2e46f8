# Everything works from a clean clone with Python 3.11+, a C++ compiler (optional) and nothing else.
PYTHON ?= python3
VENV   ?= .venv
PORT   ?= 8080
HOST_ARGS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
NATIVE_SOURCES := $(shell find src/hanok/kernels -name '*.cpp' -o -name '*.h' -o -name '*.hpp' 2>/dev/null) CMakeLists.txt

.PHONY: setup setup-dev run test test-slow soak faults check lint types bench peers lock clean

setup: $(STAMP)  ## install the product from the lock file and build its kernels
setup-dev: $(DEV_STAMP)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "hanok needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Try make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): $(VENV)/bin/python requirements/base.txt requirements/torch.txt pyproject.toml $(NATIVE_SOURCES)
	$(PIP) install -q --require-hashes --no-deps -r requirements/base.txt
	$(PIP) install -q -r requirements/torch.txt
	$(PIP) install -q --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV_STAMP): $(STAMP) requirements/dev.txt
	$(PIP) install -q --require-hashes --no-deps -r requirements/dev.txt
	@touch $@

run: setup  ## the quickstart recipe, then the chat page on http://127.0.0.1:$(PORT)
	$(BIN)/hanok run quickstart
	$(BIN)/hanok serve runs/quickstart --port $(PORT) $(HOST_ARGS)

test: setup-dev  ## the suite without its slow part, in two processes
	$(BIN)/python -m pytest -o faulthandler_timeout=600 --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-slow: setup-dev
	HANOK_FUZZ_CASES=5000 $(BIN)/python -m pytest -m 'slow and not faults' --timeout 3600

soak: setup-dev  ## two hours of random company for the engine, and two for the server (test-slow has ten minutes of each)
	HANOK_SOAK_SECONDS=7200 $(BIN)/python -m pytest tests/engine/test_soak.py tests/faults/test_http_soak.py -m slow -s

faults: setup-dev  ## kills, full disks, bit flips
	$(BIN)/python -m pytest -m faults --timeout 3600

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup-dev
	$(BIN)/pyright --pythonpath $(BIN)/python

check: lint types test  ## what CI runs

bench: setup-dev  ## quick versions of all benchmarks, one table each
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file --quick || exit 1; done

peers: setup-dev requirements/peers.txt  ## what the benchmarks compare with, llama.cpp built for this processor (some ten minutes)
	CMAKE_ARGS="-DGGML_NATIVE=ON" $(PIP) install -q --require-hashes --no-deps -r requirements/peers.txt
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python tools/peers.py .peers
	$(BIN)/python -c 'from importlib.metadata import version as v; print(*(f"{name} {v(name)}" for name in ("torch", "transformers", "accelerate", "fla-core", "llama-cpp-python")), sep="\n")'

lock: setup-dev  ## resolve the pinned versions anew (needs uv)
	$(BIN)/python tools/lock.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache
