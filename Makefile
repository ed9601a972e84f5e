# `make compare` runs the main job, `make test` the tests. Each makes .venv by itself when it is missing, and
# again when pyproject.toml or constraints.txt has changed; otherwise it starts at once.
#
#   make compare ARGS="--data ames"     options for the command
#   make docs                           the pages, in site/
#   make test PYTHON=python3.12         the interpreter that makes .venv

PYTHON ?= python3
ARGS ?=

VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed
DOCS := $(VENV)/.docs-installed

.DELETE_ON_ERROR:
.PHONY: compare test slow lint docs clean

compare: $(RUNTIME)
	$(VENV)/bin/jaxmap compare $(ARGS)

test: $(DEV)
	$(VENV)/bin/python -m pytest -m "not slow" $(ARGS)

# Status 5 of pytest: there is no slow test.
slow: $(DEV)
	$(VENV)/bin/python -m pytest -m slow $(ARGS) || [ $$? -eq 5 ]

lint: $(DEV)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright

# A broken link, a name that is not there and any other warning are errors. The pages lie in site/.
docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict $(ARGS)

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is the last thing that venv puts in place, so an interrupted venv is made again.
$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Expected Python 3.11 or later; got " \
	  + sys.version.split()[0] + ". Name another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "Installing jaxmap into $(VENV) (a minute or two, once)"
	$(PIP) install --editable . --constraint constraints.txt
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "Installing jaxmap and what its tests need into $(VENV) (a few minutes, once)"
	$(PIP) install --editable '.[dev,docs,experiments]' --constraint constraints.txt
	@touch $(RUNTIME) $(DOCS) $@

$(DOCS): pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "Installing jaxmap and what its pages need into $(VENV) (a minute or two, once)"
	$(PIP) install --editable '.[docs]' --constraint constraints.txt
	@touch $(RUNTIME) $@
