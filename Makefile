# Every target a person needs; `make` alone lists them.  Only make itself is presumed on the machine.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup run test test-unit test-tools check format bench bench-images clean

help:  ## list the targets
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | \
		while IFS='|' read -r target what; do printf '%-20s %s\n' "$$target" "$$what"; done

setup: $(STAMP)  ## create .venv with mesocosm in it

$(STAMP): pyproject.toml scripts/make-venv scripts/mesocosm
	@PYTHON='$(PYTHON)' scripts/make-venv $(VENV)
	@touch $@

run: setup  ## run a payload in a container made from the host image, limits enforced, and report
	@$(BIN)/mesocosm run --report --rm --memory 256M --cpus 1 --pids-limit 64 \
		--volume '$(CURDIR)/scripts/first-payload.py:/payload.py:ro' host python3 /payload.py

test: setup test-tools  ## install what the tests need and run them all
	@$(BIN)/python -m pytest $(ARGS)

test-unit: setup  ## the pure tests only: no root, no tools, a minute
	@$(BIN)/python -m pytest tests/unit $(ARGS)

test-tools:
	@scripts/install-test-tools

check: setup  ## lint, format, types, import direction, size limits
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy src tests bench
	@$(BIN)/python -m pytest -q tests/unit/test_architecture.py

format: setup  ## format, and fix what can be fixed
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: setup test-tools  ## measure against crun, runc and bubblewrap; rewrites bench/RESULTS.md, PROFILE.md and results.json
	@$(BIN)/python -m bench $(ARGS)

bench-images: setup test-tools  ## measure images against containerd, podman and tar; rewrites bench/IMAGES.md and images.json
	@scripts/install-bench-tools
	@$(BIN)/python -m bench.images $(ARGS)

clean:  ## remove .venv and every cache of the tools
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
