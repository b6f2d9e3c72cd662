# From a clone to results:
#   make run [MODEL=crdnn|wav2vec2] [QAT=stochastic] [ARGS=...]   train or calibrate a mini model, export and measure it
#   make quickstart                                               the same path in a few steps on a few utterances
#   make tables [ARGS=--quick]                                    every method and bit width; resumable
# Checks: make lint, make types, make quick (only what changed), make suite (all tests), make test (lint, types, suite).
# Each target first creates .venv where it is missing or older than pyproject.toml.
PYTHON ?= python3
MODEL ?= crdnn
QAT ?= stochastic
ARGS ?=
BIN := .venv/bin

.PHONY: run quickstart tables lint types quick suite test clean

run: .venv/installed
	$(BIN)/python train.py --config configs/mini_$(MODEL).yaml --qat $(QAT) $(ARGS)

# The quick start on its smallest setting: a few steps, a few utterances, the same path end to end.
quickstart: .venv/installed
	$(BIN)/python train.py --qat $(QAT) --config configs/mini_$(MODEL).yaml --trainer.max_steps 4 \
		--qat.calibration_utterances 8 --data.max_train_utterances 64 --data.max_test_utterances 6 \
		--evaluation.repeats 20 $(ARGS)

# Takes hours; may be stopped and started at any time. ARGS=--quick: small budgets.
tables: .venv/installed
	$(BIN)/python evaluate.py suite seed_tables $(ARGS)

test: lint types suite

lint: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/tested
	$(BIN)/mypy

# Lint, types, imports of all tests, and the tests that mirror the files changed since the last commit, without those marked slow.
quick: lint types
	$(BIN)/python -m pytest --collect-only -qqq
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.changed

suite: .venv/tested
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 60

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=23"
	$(BIN)/python -m pip install --quiet -e .
	touch $@

.venv/tested: .venv/installed
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
