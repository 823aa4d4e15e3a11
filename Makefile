# `make demo` and `make test` do everything, from a fresh clone, with Python 3.11 or newer, git and make.
# Another Python: `make demo PYTHON=python3.12`.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP     = $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt

# One torch thread is the fastest on small models and makes runs repeatable to the bit; nothing looks for a network.
QUIET := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 MPLBACKEND=agg

.PHONY: help demo test docs docs-check readme export clean lab results results-quick
.DEFAULT_GOAL := help

help:  ## this list
	@echo "llm2llm: what make can do"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

demo: $(VENV)/.package  ## set up, then the main job on the built-in mini-world: about two minutes after the install
	@$(BIN)/llm2llm demo --output_dir runs/demo

test: $(VENV)/.dev  ## set up, then every test, the notebooks included
	@echo "Testing the package and running its notebooks: this takes some minutes."
	@$(QUIET) $(BIN)/python -m pytest tests --numprocesses 3 --dist loadscope --no-loadscope-reorder $(ARGS)

docs: $(VENV)/.dev  ## the documentation in _docs/: by Quarto, or plainly where Quarto is not installed
	@if command -v quarto >/dev/null; then PATH="$(CURDIR)/$(BIN):$$PATH" $(QUIET) $(BIN)/python tests/pages.py quarto; \
	else echo "Quarto is not installed, so these pages are plain ones. For the full site, with its themes: https://quarto.org, or $(BIN)/pip install quarto-cli"; $(QUIET) $(BIN)/python tests/pages.py site _docs; fi
	@echo "Open _docs/index.html."

docs-check: $(VENV)/.dev  ## render every page and follow every link within them and README.md, without Quarto
	@$(QUIET) $(BIN)/python tests/pages.py check

results-quick: $(VENV)/.dev  ## a small part of the committed results again, and a comparison: about a minute
	@$(QUIET) $(BIN)/python nbs/results/again.py

# What the grids need comes first: the bases, then the learning rates, then the rest.
STUDIES := what mini_gsm mini_intent seed_sizes student_lr student_sizes $(if $(DATA),real)
AGAIN    = $(QUIET) LLM2LLM_WORK=runs $(if $(DATA),LLM2LLM_DATA=$(abspath $(DATA))) $(BIN)/nbdev-test --save
results: $(VENV)/.dev  ## the raw results again: about four hours on two cores; `make results DATA=FOLDER` adds the real rows
	@$(AGAIN) nbs/results/bases.ipynb
	@$(if $(DATA),ln -sfn $(abspath $(DATA)) runs/data)
	@for s in $(STUDIES); do $(QUIET) $(BIN)/llm2llm grid --config nbs/results/$$s.yaml --output_dir runs/$$s || exit 1; done
	@for n in what mini sizes $(if $(DATA),real); do $(AGAIN) nbs/results/$$n.ipynb || exit 1; done
	@$(AGAIN) nbs/results/student_defaults.ipynb --flags slow

readme: $(VENV)/.dev  ## README.md from nbs/index.ipynb, and the versions that the pages name
	@$(BIN)/python tests/pages.py readme

export: $(VENV)/.dev  ## llm2llm/ from the notebooks, and the notebooks cleaned for git
	@$(BIN)/nbdev-export
	@$(BIN)/nbdev-clean

lab: $(VENV)/.dev  ## JupyterLab on the tutorials, the other notebooks beside them
	@$(BIN)/python -m jupyterlab nbs $(if $(wildcard nbs/tutorials),--LabApp.default_url=/lab/tree/tutorials) $(ARGS)

clean:  ## remove what was built; the environment in .venv and the runs in runs/ stay
	@rm -rf build dist _docs _proc *.egg-info .pytest_cache
	@find llm2llm nbs tests -name __pycache__ -prune -exec rm -rf {} + -o -name .ipynb_checkpoints -prune -exec rm -rf {} +
	@echo "Removed what was built. To remove the environment too: rm -rf $(VENV)"

# The environment. A marker file says which step is done; it is older than what it was made from only when that has changed.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "llm2llm needs Python 3.11 or newer, and '$(PYTHON)' is: $$($(PYTHON) --version 2>&1 || true)."; \
	  echo "Name another one: make $(or $(MAKECMDGOALS),demo) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments: install its venv module (on Debian and Ubuntu: apt install python3-venv)."; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version). This happens once."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.package: constraints.txt settings.ini setup.py pyproject.toml | $(BIN)/python
	@echo "Installing PyTorch, the largest download: this can take some minutes."
	@$(PIP) setuptools wheel
	@$(PIP) torch
	@echo "Installing llm2llm and what it needs."
	@$(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.package
	@echo "Installing what the tests and the notebooks need."
	@$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@
