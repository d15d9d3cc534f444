# Every target that needs the environment makes it first, in .venv, from nothing but Python >= 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What the notebooks need, and with it what the tests need.
RUNTIME := $(VENV)/.runtime
INSTALLED := $(VENV)/.installed
# Notebooks under test start without a run: none of yesterday can make them pass. What the tests before them have compiled and
# rendered is shared.
TEST_DATA := $(CURDIR)/data/cache/pytest
NBVAL_DATA := $(CURDIR)/data/cache/nbval
MYPY := $(BIN)/mypy --strict delfjax
# Modules and notebooks alike.
RUFF := $(BIN)/ruff check . && $(BIN)/ruff format --check delfjax tests notebooks
NBVAL = $(BIN)/python -m pytest -p delfjax.suite.running.notebook_schema --nbval --nbval-current-env -p no:xdist -p no:cacheprovider -q

# Dozens of processes import the same modules: where the environment forbids to write bytecode, as in many a container, each would
# compile thousands of them again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help env test test-slow lint reproduce lab bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(INSTALLED)  ## create .venv (PYTHON=python3.12 picks another interpreter, 3.11 or newer)

# The newest pip: the one that comes with Python 3.11 takes twice as long to choose versions. Most modules of most packages are never
# imported: Python compiles the others when they are, in half the time.
define install
@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not installed; name one with make env PYTHON=python3.12" >&2; exit 1; }
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
  echo "make: $$($(PYTHON) --version) is too old, delfjax needs 3.11 or newer; name one with make env PYTHON=python3.12" >&2; exit 1; }
@$(PYTHON) -c 'import ensurepip, venv' || { echo "make: $(PYTHON) lacks the venv module; on Debian it is the package python3-venv" >&2; exit 1; }
$(PYTHON) -m venv --upgrade-deps $(VENV)
$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.$(1)'
@touch $(RUNTIME) $@
endef

$(RUNTIME): pyproject.toml
	$(call install,)

$(INSTALLED): pyproject.toml
	$(call install,[dev])

lint: env  ## ruff and mypy --strict
	$(RUFF)
	$(MYPY)

# Processes side by side: threads of OpenMP that wait must not take the processors from those that work. Kernels are forked from
# a process that has imported what they import.
test: export OMP_WAIT_POLICY ?= PASSIVE
test: export JUPYTER_DEFAULT_PROVISIONER_NAME ?= delfjax-forked
test: env  ## everything that must hold: lint, the test suite, every notebook
	@mkdir -p $(dir $(TEST_DATA))
	$(RUFF)
	@# mypy has one processor for half a minute: it goes beside the tests.
	$(MYPY) & types=$$!; $(BIN)/python -m pytest -p no:nbval -n 2 --dist worksteal --basetemp=$(TEST_DATA) tests; tests=$$?; wait $$types && exit $$tests
	rm -rf $(NBVAL_DATA) && mkdir -p $(NBVAL_DATA) && ln -s $(TEST_DATA)/delfjax-data/cache $(NBVAL_DATA)/cache
	@# Two halves side by side; notebooks from 30 on read each other's runs, in order.
	DELFJAX_DATA=$(NBVAL_DATA) $(NBVAL) notebooks/[0-2]*.ipynb & first=$$!; \
	  DELFJAX_DATA=$(NBVAL_DATA) $(NBVAL) notebooks/[3-9]*.ipynb; second=$$?; wait $$first && exit $$second

test-slow: env  ## the exhaustive tests, over an hour: 300 images, a sweep killed twice, a world on two devices, mining
	$(BIN)/python -m pytest -n 2 -m slow tests

reproduce: $(RUNTIME)  ## run every notebook (preset quick), then build the report; both land in data/runs
	"$(BIN)/delfjax" reproduce

# The kernel "Python 3" of this environment goes before one that a user has installed under the same name; JupyterLab refuses
# to run as root, as one does in a container, unless told that it may.
lab: export JUPYTER_PREFER_ENV_PATH := 1
lab: export JUPYTER_PATH := $(CURDIR)/$(VENV)/share/jupyter$(if $(JUPYTER_PATH),:$(JUPYTER_PATH))
lab: $(RUNTIME)  ## open the notebooks, the first one to begin with
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) --LabApp.default_url=/lab/tree/00_start_here.ipynb notebooks

bench: env  ## print the benchmark tables (pip install -e '.[bench]' adds PyTorch to race against)
	@for script in tests/benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:  ## remove .venv and every cache; data/ keeps what was downloaded and run
	rm -rf $(VENV) data/cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
