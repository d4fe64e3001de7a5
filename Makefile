# Every command of this repository, each complete on a machine with no more than Python 3.11 to 3.14
# and make.
#   make demo                      from nothing to a trained, evaluated network
#   make test-fast                 what is run while writing
#   make test                      what a change must pass
#   make test PYTHON=python3.12    with another Python
#   make test VENV=/tmp/stm-venv   with another environment

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PIP    := $(BIN)/python -m pip --disable-pip-version-check
# On a terminal pip shows its progress; in a log it would be hundreds of lines.
QUIET  := $(if $(MAKE_TERMOUT),,--quiet)
SCRIPTS := .ci/run clusters/slurm.sh
UV_VERSION := 0.13.9

# Nothing that is run from here reports home.
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test test-fast test-all slow gpu chaos lint types format lock docs wheel clean

# $(call phase,NAME,COMMAND) runs the command, says how long it took, and keeps its exit status.
define phase
@echo "== $(1)"; start=$$(date +%s); $(2); status=$$?; \
echo "== $(1): $$(($$(date +%s) - start)) s"; exit $$status
endef

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## Create .venv and install the locked packages and stm (editable) into it

demo: $(STAMP) ## Train, evaluate and predict on videos made on the spot; options in ARGS
	$(BIN)/stm demo $(ARGS)

test: lint types ## Lint, check types, and run all tests except the slow ones and those for a GPU
	$(call phase,pytest,$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu" $(ARGS))

test-fast: $(STAMP) ## Run the quick tests, without a Ray cluster
	$(call phase,pytest,$(BIN)/python -m pytest -m "not (ray or long or slow or gpu)" $(ARGS))

test-all: lint types ## Like test, and also the slow tests and those for a GPU (skipped without one)
	$(call phase,pytest,$(BIN)/python -m pytest $(ARGS))

slow: $(STAMP) ## Run only the slow tests: kills, soak, convergence
	$(call phase,pytest,$(BIN)/python -m pytest -m slow $(ARGS))

gpu: $(STAMP) ## On a machine with a GPU, run tests, timings and a training in under ten minutes, and write gpu/
	$(call phase,gpu,$(BIN)/python -m tests.tools.gpu gpu $(ARGS))

chaos: $(STAMP) ## Kill and freeze what runs need, and write the results into docs/reliability.md
	$(call phase,chaos,STM_CHAOS_TABLE=1 $(BIN)/python -m pytest -s tests/chaos $(ARGS))

lint: $(STAMP) ## Check style, formatting, shell scripts, and the direction of imports
	$(call phase,ruff,$(BIN)/ruff check . && $(BIN)/ruff format --check .)
	$(call phase,imports,$(BIN)/lint-imports)
	$(call phase,shellcheck,if [ -x $(BIN)/shellcheck ]; then $(BIN)/shellcheck $(SCRIPTS); \
	  else echo "no shellcheck for a $$(uname -m): left out"; fi)

types: $(STAMP) ## Check types
	$(call phase,mypy,$(BIN)/mypy)

format: $(STAMP) ## Format the code, and apply the fixes of ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Under `make -j` the phases would talk over each other.
.NOTPARALLEL:

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null || { \
	  echo "stm needs Python 3.11 to 3.14, and '$(PYTHON)' is: $$($(PYTHON) --version 2>&1 || true)" >&2; \
	  echo "Name one that is: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) could not make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv" >&2; \
	  exit 2; }

$(STAMP): requirements.lock pyproject.toml | $(BIN)/pip
	@echo "== install: $$(grep -c '==' requirements.lock) packages into $(VENV)" \
	  "(on Linux, PyTorch brings its CUDA libraries: several GB the first time)"
	@start=$$(date +%s); \
	$(PIP) install $(QUIET) -r requirements.lock && \
	$(PIP) install $(QUIET) --no-deps --no-build-isolation -e . && \
	echo "== install: $$(($$(date +%s) - start)) s"
	@touch $@

# Keeps the pins there are, as far as pyproject.toml allows. To move them:
#   make lock ARGS=--upgrade        make lock ARGS='--upgrade-package ray'
# PyTorch's own CUDA packages are left out: torch names their versions itself, and a machine whose
# torch is a CPU build must not be made to download them.
lock: ## Resolve requirements.lock again from pyproject.toml
	@set -e; tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; \
	$(PYTHON) -m venv "$$tmp/venv"; \
	"$$tmp/venv/bin/pip" install --quiet --disable-pip-version-check uv==$(UV_VERSION); \
	cp requirements.lock "$$tmp/resolved" 2>/dev/null || true; \
	"$$tmp/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
	  --annotation-style line --custom-compile-command "make lock" --group dev \
	  --output-file "$$tmp/resolved" $(ARGS) pyproject.toml; \
	{ echo "# What stm is tested with. torch brings the CUDA packages that belong to it: none is listed here."; \
	  grep -vE '^(nvidia-|cuda-|triton==)' "$$tmp/resolved"; } > requirements.lock; \
	echo "requirements.lock: $$(grep -c '==' requirements.lock) packages"

docs: $(STAMP) ## Build the documentation as a website into site/; fail on a broken link
	$(call phase,docs,NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --config-file docs/site/mkdocs.yml)

wheel: $(STAMP) ## Build dist/stm_video-VERSION-py3-none-any.whl
	rm -rf build  # else files that are gone from the tree stay in the wheel
	$(PIP) wheel $(QUIET) --no-deps --no-build-isolation --wheel-dir dist .

clean: ## Remove caches and build output; runs, checkpoints and .venv stay
	rm -rf build dist site *.egg-info .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find stm pipelines tests -name __pycache__ -type d -prune -exec rm -rf {} +
