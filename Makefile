# Every target that needs the environment first creates it in .venv; only Python >= 3.11 is required.
#
# The checkout may lie in a folder with spaces, quotes or dollar signs in its name. Paths in here are therefore relative, and where a
# program needs an absolute one, the shell makes it: "$$PWD". Tools are started as modules, because the scripts that pip installs hold
# the path of the interpreter, which not every shell reads as it is.
PYTHON ?= python3
export PYTHON
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m
# Stamps of two installations: what the notebooks need (VGG16's weights and OpenCV included), and that plus what the tests need.
RUNTIME := $(VENV)/.runtime
INSTALLED := $(VENV)/.installed
# A comma would end an argument of a call.
RUN_WITH := vgg,sift
TESTED := vgg,sift,dev
# Notebooks under test start without any run, so that no old run can make them pass. They share only the cache of the tests that
# ran before them: compiled programs and rendered worlds.
TEST_DATA := data/cache/pytest
NBVAL_DATA := data/cache/nbval
MYPY := $(RUN) mypy --strict delfjax
# Checks modules and notebooks.
RUFF := $(RUN) ruff check . && $(RUN) ruff format --check delfjax tests notebooks
# Kernels start in the folder of their notebook.
NBVAL := DELFJAX_DATA="$$PWD/$(NBVAL_DATA)" $(RUN) pytest -p delfjax.suite.running.notebook_schema --nbval --nbval-current-env -p no:xdist -p no:cacheprovider -q

# Dozens of processes import the same modules. Where the environment disables bytecode, as many containers do, each process would
# compile thousands of modules again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help env test test-slow lint reproduce lab bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

env: $(INSTALLED)  ## create .venv (PYTHON=python3.12 picks another interpreter, 3.11 or newer)

# --upgrade-deps: the pip of Python 3.11 takes twice as long to resolve versions as the newest. --no-compile: most modules are never
# imported, and compiling the others on import takes half the time.
define install
@command -v "$$PYTHON" >/dev/null || { echo "make: $$PYTHON is not installed; name one with make env PYTHON=python3.12" >&2; exit 1; }
@"$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
  echo "make: $$("$$PYTHON" --version) is too old, delfjax needs 3.11 or newer; name one with make env PYTHON=python3.12" >&2; exit 1; }
@"$$PYTHON" -c 'import ensurepip, venv' || { echo "make: $$PYTHON lacks the venv module; on Debian it is the package python3-venv" >&2; exit 1; }
"$$PYTHON" -m venv --upgrade-deps $(VENV)
$(RUN) pip install --quiet --disable-pip-version-check --no-compile --editable '.[$(1)]'
@touch $(RUNTIME) $@
endef

$(RUNTIME): pyproject.toml
	$(call install,$(RUN_WITH))

$(INSTALLED): pyproject.toml
	$(call install,$(TESTED))

lint: env  ## ruff and mypy --strict
	$(RUFF)
	$(MYPY)

# Processes run in parallel, so waiting OpenMP threads must not keep the processors from working ones. Kernels are forked from a
# process that has already imported the modules that they need.
test: export OMP_WAIT_POLICY ?= PASSIVE
test: export JUPYTER_DEFAULT_PROVISIONER_NAME ?= delfjax-forked
test: env  ## run everything: lint, the test suite, every notebook
	@mkdir -p data/cache
	$(RUFF)
	@# mypy uses one processor for half a minute, so it runs in parallel with the tests.
	$(MYPY) & types=$$!; $(RUN) pytest -p no:nbval -n 2 --dist worksteal --basetemp=$(TEST_DATA) tests; tests=$$?; wait $$types && exit $$tests
	rm -rf $(NBVAL_DATA) && mkdir -p $(NBVAL_DATA) && ln -s "$$PWD/$(TEST_DATA)/delfjax-data/cache" $(NBVAL_DATA)/cache
	@# Two halves in parallel. Notebooks from 30 on read each other's runs, so they stay in order.
	$(NBVAL) notebooks/[0-2]*.ipynb & first=$$!; \
	  $(NBVAL) notebooks/[3-9]*.ipynb; second=$$?; wait $$first && exit $$second

test-slow: env  ## run the exhaustive tests, over an hour: 300 images, a sweep killed twice, a world on two devices, mining
	$(RUN) pytest -n 2 -m slow tests

reproduce: $(RUNTIME)  ## run every notebook (preset quick), then build the report; both land in data/runs
	$(RUN) delfjax.cli reproduce

# The kernel "Python 3" of this environment takes precedence over one that a user has installed under the same name. As root, the
# usual user in a container, JupyterLab only starts with --allow-root.
lab: export JUPYTER_PREFER_ENV_PATH := 1
lab: $(RUNTIME)  ## open the notebooks in JupyterLab, starting with the first
	JUPYTER_PATH="$$PWD/$(VENV)/share/jupyter$${JUPYTER_PATH:+:$$JUPYTER_PATH}" $(RUN) jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root) --LabApp.default_url=/lab/tree/00_start_here.ipynb notebooks

bench: env  ## print the benchmark tables (pip install -e '.[bench]' adds PyTorch to race against)
	@for script in tests/benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

clean:  ## remove .venv and every cache; downloads and runs in data/ stay
	rm -rf $(VENV) data/cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
