# Two commands do it all on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
# What is installed beside the package; .ci/run installs "dev,ci", which leaves no test out.
EXTRAS ?= dev
STAMP := .venv/.installed-$(EXTRAS)

.PHONY: install demo test lint bench sandbox clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/unidetox demo -o runs/demo

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python benchmarks/run_all.py

# Makes the models and data of the sandbox again from their seed (about 20 minutes); they are committed.
sandbox: $(STAMP)
	$(BIN)/python -m tools.sandbox.build --seed 0 -o src/unidetox/data/sandbox

clean:
	rm -rf .venv runs build dist .pytest_cache .ruff_cache .mypy_cache
