# Every target sets up what it needs: a virtual environment of its own, from requirements.txt.
# Another Python: make PYTHON=python3.12
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
READY := $(VENV)/.ready
PY := $(VENV)/bin/python
# One BLAS thread: scores are equal to the byte, and workers side by side do not fight for cores.
export OPENBLAS_NUM_THREADS := 1
export OMP_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help demo serve test chaos fuzz simulate bench check format schemas lock clean

help: ## tell what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements.txt
	@test -n "$(PYTHON)" || { echo "Activeset needs Python 3.11 or newer: install one, or name it: make PYTHON=/path/to/python3.12"; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version) (once, a minute or two) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

demo: $(READY) ## show active learning on real images, through a real Kafka: half a minute
	@exec $(PY) -m deploy demo

serve: $(READY) ## run a local Kafka and one worker until Ctrl-C (ACTIVESET_BROKER=host:port uses that Kafka)
	@exec $(PY) -m deploy serve

test: $(READY) ## run all tests, on a real Kafka that they start themselves
	@$(PY) -m pytest

MINUTES ?= 1

fuzz: $(READY) ## events and requests that nobody has thought of, for a minute (MINUTES=5: for five)
	@$(PY) -m tests.fuzz $(MINUTES)

chaos: $(READY) ## three workers under faults of all kinds, for three minutes: nothing lost, nothing twice (ARGS="--help" tells more)
	@exec $(PY) -m tests.chaos $(ARGS)

simulate: $(READY) ## what choosing saves, on digits, through a real Kafka: some minutes (ARGS="--help" tells more)
	@exec $(PY) -m agents simulate $(ARGS)

bench: $(READY) ## what all of it costs, as ratios to what runs beside it: ten minutes (ARGS="--help" tells more)
	@exec $(PY) -m tests.bench $(ARGS)

check: $(READY) ## ruff, mypy --strict, basedpyright and the rules of the house
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check
	@$(PY) -m mypy
	@$(PY) -m basedpyright --warnings
	@$(PY) -m pytest -q tests/core/test_house.py

format: $(READY) ## put the code in its form
	@$(PY) -m ruff check --fix
	@$(PY) -m ruff format

schemas: $(READY) ## renew streams/schemas, streams/asyncapi.yaml and web/openapi.json from the types
	@$(PY) -m streams.schema
	@$(PY) -m streams.asyncapi
	@$(PY) -m web.openapi

lock: $(READY) ## renew requirements.txt from pyproject.toml, and the list of Kafka's jars
	@$(PY) -m pip install --quiet --disable-pip-version-check uv
	@$(PY) -m uv pip compile --quiet --universal --upgrade --no-emit-index-url --no-annotate \
		--custom-compile-command "make lock" --group dev pyproject.toml -o requirements.txt
	@$(PY) -m deploy jars

clean: ## remove the virtual environment, the state and what the tools left
	@rm -rf $(VENV) .state .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
