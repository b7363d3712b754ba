PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
INSTALL := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt

# The tests start many processes: each would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all check fmt bench

demo: $(STAMP)  ## embed a bundled clip, print the table, draw demo.png
	$(BIN)/vggish-hf demo -o demo.png

test: $(STAMP)  ## the offline tests, without the slow ones
	$(BIN)/python -m pytest

test-all: test  ## every offline test, with all fuzz cases
	VGGISH_HF_TESTS=all $(BIN)/python -m pytest \
		-m "(slow or fuzz or hypothesis) and not network and not gpu and not pretrained"

check: $(STAMP)  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fmt: $(STAMP)  ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## measure
	$(INSTALL) --editable '.[dev,bench]'
	$(BIN)/python -m benchmarks

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("vggish-hf needs Python 3.11 or later: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(INSTALL) --editable '.[dev]'
	touch $@
