# MarketSwarm: `make up` runs the whole pipeline; `make help` lists the rest.

PYTHON ?= python3
STAGE ?= staging
CONSUMERS ?= 1
KILLS ?= 40

BIN := .venv/bin
INSTALLED := .venv/.installed

# options of `marketswarm up`, from variables of the same name
up_options = $(foreach name,chain rate seed contracts scenario,$(call option,$(name)))
option = $(if $($(shell echo $(1) | tr a-z A-Z)),--$(1) "$($(shell echo $(1) | tr a-z A-Z))")

# tests on the server of the session; those that start a whole pipeline bring their own
server_tests := -m "server and not processes and not browser"

.DEFAULT_GOAL := help
.PHONY: help install up down run-stage status test test-browser integration integration-redis8 check check-guards format bench chaos clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## the application and its tools into .venv (every other target does this by itself)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=...") if sys.version_info < (3, 11) else 0'
	@echo "installing into .venv (about a minute)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --group dev --editable .
	@touch $@

up: $(INSTALLED)  ## the whole pipeline until Ctrl-C (CHAIN=file RATE=n SEED=n CONTRACTS=n SCENARIO=name for the mock)
	@exec $(BIN)/marketswarm up $(up_options)

down: $(INSTALLED)  ## stop the pipeline, also one whose `make up` was killed
	@exec $(BIN)/marketswarm down

run-stage: $(INSTALLED)  ## more processes of one stage for the running pipeline (STAGE=name CONSUMERS=n)
	@pids=; trap 'kill -TERM $$pids 2>/dev/null' INT TERM; \
	for _ in $$(seq $(CONSUMERS)); do $(BIN)/marketswarm stage $(STAGE) & pids="$$pids $$!"; done; \
	failed=0; for pid in $$pids; do \
		wait $$pid || { code=$$?; while kill -0 $$pid 2>/dev/null; do wait $$pid; code=$$?; done; \
			[ $$code -ge 128 ] || failed=$$code; }; \
	done; exit $$failed

status: $(INSTALLED)  ## epochs, ages and lags as they are now
	@exec $(BIN)/marketswarm status

test: $(INSTALLED)  ## unit, property and process tests
	@exec $(BIN)/python -m pytest tests -m "not browser"

test-browser: $(INSTALLED)  ## the page in a real Chromium (BROWSER=/path/to/it; otherwise Debian's)
	@exec $(BIN)/python -m pytest tests/browser

integration: $(INSTALLED)  ## the tests that need a server, on a real Redis in a container (TEST_REDIS_IMAGE=redis:7)
	@TEST_CONTAINERS=1 exec $(BIN)/python -m pytest tests $(server_tests)

integration-redis8: $(INSTALLED)  ## the same on the Redis 8 of a wheel, without Docker
	@TEST_SERVER=redis8 exec $(BIN)/python -m pytest tests $(server_tests)

check: $(INSTALLED)  ## format, lint, strict types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check-guards: $(INSTALLED)  ## each guard of a commit, removed in turn, fails a test (about three minutes)
	@exec $(BIN)/python tests/check_guards.py

format: $(INSTALLED)  ## rewrite to the format that `make check` wants
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)  ## throughput and latency; the last line is JSON
	@exec $(BIN)/marketswarm bench

chaos: $(INSTALLED)  ## kill -9 under load, then audit (KILLS=n)
	@exec $(BIN)/marketswarm chaos --kills $(KILLS)

clean:  ## remove .venv and caches; the data folder stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
