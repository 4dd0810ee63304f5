# The project's verbs. Nothing but Python >= 3.11, make and git is needed to start; `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test check lab clean bootstrap-demo bootstrap-dev mosquitto postgres compose-models

# The first Python that is new enough; another one by `make PYTHON=python3.12 demo`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
ARGS ?=

help: ## list what can be typed
	@echo 'edgeloop: make TARGET'
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 18
	@echo
	@echo "  options: make demo ARGS='--seed 1 --serve'   make test ARGS='-k spool'   make PYTHON=python3.12 …"

demo: bootstrap-demo ## run the whole loop on real data (two minutes after the first installation)
	@$(BIN)/edgeloop demo $(ARGS)

test: bootstrap-dev mosquitto postgres ## all tests that need no root, with coverage
	@$(BIN)/python scripts/run_tests.py $(ARGS)

check: bootstrap-dev ## linters and type checker
	@scripts/check.sh $(BIN)

lab: bootstrap-dev ## tests that need root and Debian's packages (Docker); says why it skips
	@$(PYTHON) scripts/install_lab.py
	@$(BIN)/python -m pytest tests/lab -m lab -rs --timeout=1800 $(ARGS)

compose-models: bootstrap-demo ## make the models and data that deploy/compose.yaml mounts
	@$(BIN)/python examples/compose/make_models.py deploy/models

clean: ## remove what was built or cached (and .venv; the next run installs again)
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache \
		.coverage .coverage.* coverage.json htmlcov
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

bootstrap-demo bootstrap-dev: bootstrap-%:
	@if [ -z "$(PYTHON)" ]; then \
		echo 'edgeloop needs Python 3.11 or later; found only: '"$$(python3 --version 2>&1)"; \
		echo 'Install one (Debian 12, Ubuntu 24.04: sudo apt install python3 python3-venv), or name it: make PYTHON=/path/to/python3.12 demo'; \
		exit 1; fi
	@$(PYTHON) scripts/bootstrap.py $*

mosquitto:
	@$(PYTHON) scripts/install_mosquitto.py

postgres:
	@$(PYTHON) scripts/install_postgres.py
