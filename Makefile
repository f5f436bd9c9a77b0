# Every target first calls tools/set_up.py, which makes .venv on the first call and returns at once
# on later ones. Without make, docs/install.md has the same in plain python commands.
#
#     make notebooks PROFILE=smoke      # or laptop (the default), or gpu
#     make notebooks JOBS=1             # one at a time, for little memory (two is the default)
#     make run TASK=wordle ARGS="--methods ilql q_sft --set layers=4"
#     make test PYTHON=python3.12       # the Python that .venv is made with
#     make test NEWEST=1                # the newest dependencies in place of requirements.lock

PYTHON ?= python3
PROFILE ?= laptop
JOBS ?= 2
TASK ?= wordle
ARGS ?=
NEWEST ?=

ifeq ($(OS),Windows_NT)
VENV_PYTHON := .venv/Scripts/python.exe
else
VENV_PYTHON := .venv/bin/python
endif

# Notebooks run with .venv's kernel, whatever other kernels the user has.
export JUPYTER_PREFER_ENV_PATH := 1

.PHONY: help set-up doctor notebooks run watch test test-slow test-all lab bench book lint record lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

set-up: ## make .venv and install the package into it
	@$(PYTHON) tools/set_up.py $(if $(NEWEST),--newest)

doctor: set-up ## say what this machine is, and how long the chapters take on it
	@$(VENV_PYTHON) -m qsft_lite.notebook.doctor

notebooks: set-up ## run every notebook into build/
	$(VENV_PYTHON) -m qsft_lite.notebook all --profile $(PROFILE) --jobs $(JOBS) --output build/$(PROFILE) $(ARGS)

run: set-up ## run a study: make run TASK=wordle PROFILE=laptop
	$(VENV_PYTHON) -m qsft_lite.study $(TASK) --profile $(PROFILE) $(ARGS)

watch: set-up ## say where that study is
	@$(VENV_PYTHON) -m qsft_lite.study watch $(TASK) --profile $(PROFILE) $(ARGS)

test: set-up ## run the tests, but for the slow ones
	$(VENV_PYTHON) -m pytest -m "not slow" -n $(JOBS) --dist loadfile

test-slow: set-up ## run the slow tests: killed and resumed trainings, a browser, new environments
	$(VENV_PYTHON) -m pytest -m slow -n $(JOBS) --dist loadfile

test-all: test test-slow ## run all tests

lab: set-up ## open JupyterLab on the notebooks
	$(VENV_PYTHON) -m jupyterlab notebooks

bench: set-up ## time losses, training steps, and play, each beside a rival
	$(VENV_PYTHON) -m benchmarks.loss
	$(VENV_PYTHON) -m benchmarks.step
	$(VENV_PYTHON) -m benchmarks.training
	$(VENV_PYTHON) -m benchmarks.decode
	$(VENV_PYTHON) -m benchmarks.pretrained

book: set-up ## build the website into build/book/html, from the committed outputs
	@$(VENV_PYTHON) -m tools.book

lint: set-up ## check code and notebooks with ruff
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .

record: set-up ## maintainers: run the notebooks in place and record their results
	$(VENV_PYTHON) -m qsft_lite.notebook record

lock: set-up ## maintainers: write requirements.lock and environment.yml with today's versions
	$(VENV_PYTHON) -m pip install --quiet uv
	$(VENV_PYTHON) tools/lock.py

clean: ## remove what was built; .venv stays
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
