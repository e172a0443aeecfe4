# Each target is one or two real commands in .venv, which is made on first use from any Python 3.10 or newer:
# `make test PYTHON=python3.12 VENV=my_venv`. Without make, type what `make -n TARGET` prints.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python -m

# Of `make bench`: labelled words (see training/run_benchmark.py), rows of sets pooled, and where the results go.
DATA ?= examples
GROUPS ?=
RESULTS ?= runs/bench

.PHONY: demo test test-fast lint bench notebooks fonts clean

demo: $(VENV)/.installed
	$(RUN) examples.draw_readings --output readings.png

test: $(VENV)/.installed-test
	$(RUN) pytest --numprocesses 2 --dist loadfile

test-fast: $(VENV)/.installed-test
	$(RUN) pytest --numprocesses 2 --dist loadfile -m "not slow and not network"

lint: $(VENV)/.installed-dev
	$(RUN) ruff check . && $(RUN) ruff format --check . && $(RUN) mypy

bench: $(VENV)/.installed-bench
	mkdir -p $(RESULTS)
	$(RUN) training.run_benchmark default $(DATA) $(GROUPS:%=--group %) --threads 2 --robustness --output $(RESULTS)/results.json
	$(RUN) training.run_speed $(DATA) --threads 2 --output $(RESULTS)/speed.json

notebooks: $(VENV)/.installed-notebooks
	$(RUN) training.run_notebooks notebooks/*.ipynb

fonts:
	bash training/install_fonts.sh fonts

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache

# bin/pip appears last, so a half-made environment is made again.
$(VENV)/bin/pip:
	$(PYTHON) -m venv --clear $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(RUN) pip install --quiet -c constraints.txt -e . && touch $@

$(VENV)/.installed-%: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(RUN) pip install --quiet -c constraints.txt -e '.[$*]' && touch $@
