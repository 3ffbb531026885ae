# Needs Python 3.10 or newer, git and make. Each target first makes the environment in .venv, once.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed
EXTRAS := all,dev,docs

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help cookbook test docs readme bench clean

help:
	@echo "make cookbook   train a neural ODE on real digits: the quickstart, executed, in runs/quickstart/"
	@echo "make test       run every notebook as the test suite"
	@echo "                  NB=nbs/numerics/05_steppers.ipynb   only this notebook"
	@echo "                  FLAGS=slow                 also the cells marked '#| slow' (or 'slow cuda')"
	@echo "                  LIMIT=1800                 seconds of CPU time for a notebook (900 by default, 3600 with FLAGS)"
	@echo "make docs       render the site to _docs/, with README.md, and check its links"
	@echo "make bench      time torchdyn and its peers side by side, for nbs/benchmarks; peers go into .bench/, once"
	@echo "                  WORKLOADS='W1a W6a'        only these, printed and not kept"
	@echo "                  KEEP=1                     ... kept, in the place of their earlier results"
	@echo "                  REPEATS=5                  rounds of each (7 by default)"
	@echo "                  AGAINST=../other           also the torchdyn of another working tree"
	@echo "make readme     write README.md from nbs/index.ipynb"
	@echo "make clean      remove what was made, the environment in .venv too"

cookbook: $(READY)
	@$(BIN)/python .ci/cookbook.py

test: $(READY)
	@$(BIN)/python .ci/test.py $(NB) --flags "$(FLAGS)" $(if $(LIMIT),--limit "$(LIMIT)")

docs: readme
	@$(BIN)/python docs/build.py
	@$(BIN)/python docs/check_links.py

readme: $(READY)
	@$(BIN)/python docs/readme.py

bench: $(READY)
	@$(BIN)/python nbs/benchmarks/bench.py $(if $(WORKLOADS),--workloads $(WORKLOADS)) $(if $(REPEATS),--repeats $(REPEATS)) $(if $(KEEP),--keep) $(if $(AGAINST),--against $(AGAINST))

clean:
	rm -rf $(VENV) .bench _docs _proc runs build dist *.egg-info

# The stamp is newer than what it was installed from: a second call goes straight on.
$(READY): setup.py settings.ini constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "torchdyn needs Python 3.10 or newer as '$(PYTHON)'. Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || { \
	  echo "The environment could not be made: Python's venv module is missing (Debian and Ubuntu: apt install python3-venv)."; exit 1; }
	@echo "Installing into $(VENV), once; this can take some minutes."
	@$(BIN)/python -m pip install -c constraints.txt -e ".[$(EXTRAS)]" && \
	  $(BIN)/python -m pip install -c constraints.txt --no-deps aeon || { \
	  echo "The installation failed (pip says why above). Is the network reachable? Then run the command again."; exit 1; }
	@touch $@
