# In a fresh clone, `make demo` and `make test` create the virtual environment that they need.
# To use another interpreter: make test PYTHON=python3.13 VENV=.venv-3.13
PYTHON  ?= python3
VENV    ?= .venv
WORKERS ?= $(shell echo $$(($$(nproc) * 3 / 2)))
ARGS    ?=

BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST  := $(BIN)/pytest -n $(WORKERS) --dist worksteal
RUNTIME := $(VENV)/.runtime-installed
DEMO    := $(VENV)/.demo-installed
DEV     := $(VENV)/.dev-installed

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test simulate simulate-mutants drills lint ci format coverage constraints clean servers servers-status servers-stop bench bench-quick settings dashboards screenshots

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(DEMO) ## show the whole pipeline on this machine, then kill and restart it
	$(BIN)/rag-outbox demo

test: $(DEV) ## run all tests; pytest options: ARGS="-k name -x"
	-$(BIN)/python -m compose.native fetch
	$(PYTEST) $(ARGS)

simulate: $(DEV) ## run schedules of the simulation; SCHEDULES=10000 keeps the result, SEED=123 runs one
	PYTHONHASHSEED=0 $(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--schedules $(or $(SCHEDULES),500) $(if $(SCHEDULES),--keep))

simulate-mutants: $(DEV) ## check that the simulation finds each of its mutants
	PYTHONHASHSEED=0 $(BIN)/python -m tests.simulation --mutants

drills: $(DEV) ## run long drills on real servers (an hour); NAMES="reconcile kills" ARGS="--keep"
	$(BIN)/python -m tests.drills $(NAMES) $(ARGS)

servers: $(RUNTIME) ## start MySQL, Kafka, Milvus and MinIO without Docker; ARGS="--replica --port mysql=3306"
	$(BIN)/python -m compose.native up $(ARGS)

servers-status: $(RUNTIME) ## show which servers run, and where
	$(BIN)/python -m compose.native status $(ARGS)

servers-stop: $(RUNTIME) ## stop the servers; data and logs stay in .servers
	$(BIN)/python -m compose.native stop $(ARGS)

bench: $(RUNTIME) ## run all benchmarks and keep the results (over 30 minutes); ARGS="--servers DIR"
	$(BIN)/python -m benchmarks --keep $(ARGS)

bench-quick: $(RUNTIME) ## run short forms of all benchmarks; keep nothing
	$(BIN)/python -m benchmarks --quick $(ARGS)

lint: $(DEV) ## check format, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

ci: lint ## lint, then test: must pass before a merge
	$(MAKE) test

format: $(DEV) ## format the code and apply safe fixes
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

coverage: $(DEV) ## run all tests with branch coverage, subprocesses included
	$(PYTEST) --cov --cov-report=term $(ARGS)

constraints: ## pin the newest versions again (needs Python 3.11, the oldest supported)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "make constraints needs Python 3.11, so that the pins install on every later one: PYTHON=python3.11"; exit 1; }
	@set -eu; work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; \
	$(PYTHON) -m venv "$$work/venv"; \
	"$$work/venv/bin/python" -m pip --disable-pip-version-check --quiet install '.[dev]'; \
	echo "# Written by \`make constraints\`. The versions of all packages that the tests run with." > "$$work/pins"; \
	"$$work/venv/bin/python" -m pip --disable-pip-version-check freeze --exclude rag-outbox >> "$$work/pins"; \
	if grep -n ' @ \|://' "$$work/pins"; then echo "a pin has a location instead of a version" >&2; exit 1; fi; \
	cp "$$work/pins" constraints.txt; \
	grep -c == constraints.txt | sed 's/$$/ versions pinned in constraints.txt/'

settings: $(RUNTIME) ## write docs/settings.md from the settings class
	$(BIN)/python -m operations.settings.page > docs/settings.md

dashboards: $(DEV) ## write the Grafana dashboards from their Python
	$(BIN)/python -m compose.grafana.dashboards

screenshots: $(DEV) ## write the pictures of the console with a headless Chromium
	$(BIN)/python -m tests.support.screenshots

clean: ## remove the virtual environment, caches and build output
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* htmlcov dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "rag-outbox needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Name another one: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "'$(PYTHON)' has no venv or ensurepip. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(RUNTIME): pyproject.toml constraints.txt | $(VENV)/.made
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(DEMO): pyproject.toml constraints.txt | $(VENV)/.made
	$(PIP) install -c constraints.txt -e '.[html,ocr,office,pdf,web]'
	@touch $(RUNTIME) $@

$(DEV): pyproject.toml constraints.txt | $(VENV)/.made
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $(RUNTIME) $(DEMO) $@
