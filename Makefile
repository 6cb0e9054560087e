# The commands of this repository. All that is needed beforehand is Python 3.11 or newer.
# On the command line: PYTHON=/path/to/python3, ARGS='for the command', TORCH_INDEX=URL

# The first Python here that is new enough and can make a virtual environment.
USABLE = import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.11 python3; do \
	$$p -c '$(USABLE)' 2>/dev/null && echo $$p && break; done)

VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --no-input

# torch comes first, alone and pinned: asked for among others, pip takes the newest one with
# gigabytes of GPU libraries. TORCH_INDEX names a package index that has another build of it.
TORCH ?= $(shell grep '^torch==' constraints.txt)
TORCH_INDEX ?=

.DEFAULT_GOAL = help
.PHONY: help setup demo test quick check verify build clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/ready corpora/shakespeare/SOURCE.txt ## the environment in .venv and the text of the demo

demo: setup ## text in, a trained and evaluated model and report.html out
	$(BIN)/redraft demo $(ARGS)

test: setup ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

quick: setup ## the fast tests, about five minutes
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $(ARGS)

check: $(VENV)/ready ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

verify: $(VENV)/ready ## agreement with the reference numbers in GOLDENS=FOLDER
	@test -d "$(GOLDENS)" || { \
		echo "make: verify needs a folder of goldens: make verify GOLDENS=FOLDER" >&2; exit 2; }
	$(BIN)/python -m tests.goldens "$(GOLDENS)"

build: $(VENV)/ready ## wheel and sdist in dist/
	rm -rf dist
	$(BIN)/python -m build --no-isolation

clean: ## remove what these commands made, but no runs
	rm -rf $(VENV) dist corpora/shakespeare .pytest_cache .ruff_cache .hypothesis

$(VENV)/ready: pyproject.toml constraints.txt
	@"$(PYTHON)" -c '$(USABLE)' 2>/dev/null || { \
		echo "make: $(or $(PYTHON),no python3) will not do: this needs Python 3.11 or newer" \
		"with venv (Debian, Ubuntu: python3-venv); name one with PYTHON=/path/to/python3" >&2; \
		exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(PIP) install --no-deps $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	$(PIP) install -c $(VENV)/constraints.txt hatchling
	$(PIP) install -c $(VENV)/constraints.txt --no-build-isolation -e '.[dev]'
	touch $@

corpora/shakespeare/SOURCE.txt: | $(VENV)/ready
	$(BIN)/python -m redraft.data.corpora shakespeare corpora
