# Two commands do all the set-up on a machine that has make and Python 3.11 or newer:
#   make demo   environment, phantom, a sweep of 15 runs, its report
#   make test   what CI runs: ruff and mypy (make lint), every test (make suite)
#   make audit  whether a version of constraints.txt has a published hole (asks osv.dev); CI runs it too
PYTHON ?= python3
VENV ?= .venv
# or constraints-oldest.txt, with a VENV of its own
CONSTRAINTS ?= constraints.txt
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --quiet --disable-pip-version-check
SOURCES = src tests benchmarks notebooks examples

.PHONY: demo test lint suite fast format audit clean

demo: $(VENV)/.installed
	$(BIN)/python -m segtune study=demo -m
	$(BIN)/python -m segtune.report sweep=outputs/demo
	@echo
	@echo "The sweep's report: outputs/demo/report.html; each run's numbers: outputs/runs/<run id>/"
	@echo "Next: $(BIN)/python -m segtune loss=focal split=0.6              one run at full size, about three minutes"
	@echo "      $(BIN)/python -m segtune data=rvsc data.root=TrainingSet   the same on your own copy of the real data"

test: lint suite

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

suite: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadgroup

audit:
	$(PYTHON) .ci/advisories.py

fast: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not slow" --numprocesses=2 --dist=worksteal

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "segtune needs Python 3.11 or newer; choose one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml $(CONSTRAINTS)
	@echo "Installing segtune and what it needs into $(VENV) (the first time this downloads PyTorch)"
	$(PIP) install --constraint $(CONSTRAINTS) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the tools of the tests"
	$(PIP) install --constraint $(CONSTRAINTS) --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache
