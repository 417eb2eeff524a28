PYTHON ?= python3
# Another interpreter than the default has its own environment: .venv-3.13 for `make test PYTHON=python3.13`.
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Where it is set, each of the processes that the tests start compiles everything anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-long lint up bench clean

$(READY): pyproject.toml deploy/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint deploy/constraints.txt --editable '.[dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/python deploy/sample/demo.py

up: $(READY)
	$(BIN)/cronledger up --config deploy/sample/langgraph.json

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	$(BIN)/hadolint deploy/Dockerfile deploy/sample/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose/*.yaml
	$(BIN)/python deploy/manifests.py

# Three files side by side, all of them, on two cores as well: half of the time of those that take longest is spent
# waiting. They begin (tests/conftest.py).
test: lint
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

test-long: $(READY)
	$(BIN)/python -m pytest -m long

bench: $(READY)
	$(BIN)/python -m pytest -m bench -s tests/bench

clean:
	rm -rf .venv .venv-* build *.egg-info
