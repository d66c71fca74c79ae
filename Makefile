# The commands of the platform. `make` alone lists them; ARGS="..." passes more to most of them (make down ARGS=--yes).

SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
PYTHON := $(BIN)/python
TOOLCHAIN := python3 -m toolchain
SOURCES := agent demo stacks wmsctl wms toolchain tests bench
REPORTS := build/tests
ARGS ?=

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: ## Install what is missing on this machine: says what and where first, does nothing when complete
	@$(TOOLCHAIN) install

.PHONY: doctor
doctor: ## Check that this machine can run the platform
	@$(TOOLCHAIN) doctor

.PHONY: up
up: setup web ## Make or repair the local platform
	@echo "Making the local platform:"
	@$(PYTHON) -m stacks.local.lifecycle up $(ARGS)

.PHONY: down
down: setup ## Remove the local platform; asks before it deletes data
	@echo "Removing the local platform:"
	@$(PYTHON) -m stacks.local.lifecycle down $(ARGS)

.PHONY: demo
demo: setup web ## Make the platform, kill the primary's node under load, and show the measured recovery
	@echo "The demonstration: a platform, a load, the loss of the primary's node:"
	@$(PYTHON) -m demo $(ARGS)

.PHONY: status
status: setup ## Show the state of the local platform
	@$(BIN)/wmsctl -c local status $(ARGS)

.PHONY: check
check: setup ## Lint, types and unit tests: what gates a commit, under five minutes
	@mkdir -p $(REPORTS) && rm -f $(REPORTS)/check.xml
	@echo "Lint:" && $(BIN)/ruff check .
	@echo "Format:" && $(BIN)/ruff format --check .
	@echo "Types:" && $(BIN)/mypy $(SOURCES)
	@echo "Unit and stack tests:"
	@$(BIN)/pytest --timeout 60 --junit-xml $(REPORTS)/check.xml tests/unit tests/stacks $(ARGS)

.PHONY: test test-full
test: ## All tests but the long ones, on platforms that they make and remove themselves
test-full: ## Every test, the whole fault matrix included (long)
test: SELECTION := -m "not full"
# Goes on after a failure, so that one run shows everything; the last line is the sum over all pytest runs.
test test-full: setup web
	@echo "check, then tests/contract, tests/live and tests/web $(SELECTION); reports in $(REPORTS):"
	@rm -rf $(REPORTS) && mkdir -p $(REPORTS); status=0; \
	$(MAKE) check || status=1; \
	$(BIN)/pytest $(SELECTION) --junit-xml $(REPORTS)/live.xml tests/contract tests/live tests/web $(ARGS) || status=1; \
	$(TOOLCHAIN) results $(REPORTS) check live || status=1; \
	exit $$status

.PHONY: bench
bench: setup ## Run the benchmarks; results go to bench/results
	@echo "Benchmarks:"
	@$(PYTHON) -m bench $(ARGS)

.PHONY: web
web: ## Build the web application into wms/web/dist, from its lock file and within its size budgets (needs Node.js)
	@echo "The web application:"
	@python3 -m wms.web.build $(ARGS)

.PHONY: format
format: setup ## Format the code and mend what the linter can mend
	@echo "Format and mend:"
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: lock
lock: ## Resolve pyproject.toml into requirements.lock again (needs uv; ARGS=--upgrade for newer versions)
	@command -v uv > /dev/null || { echo "uv is missing: https://docs.astral.sh/uv (pipx install uv)" >&2; exit 1; }
	@echo "Resolving requirements.lock:"
	@uv pip compile --quiet --all-extras --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
	  --output-file requirements.lock $(ARGS) pyproject.toml

.PHONY: env
env: ## Print shell exports for plain pulumi: eval "$(make -s env)"
	@$(TOOLCHAIN) env

.PHONY: clean-cache
clean-cache: ## Remove built tools and virtual environments from the cache; asks first
	@$(TOOLCHAIN) clean-cache $(ARGS)
