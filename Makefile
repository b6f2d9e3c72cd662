# Two commands: `make run [MODEL=crdnn|wav2vec2] [QAT=stochastic] [ARGS=...]`, `make tables` and `make test`.
PYTHON ?= python3
MODEL ?= crdnn
QAT ?= stochastic
ARGS ?=
BIN := .venv/bin

.PHONY: run tables test lint types suite quickstart clean

run: .venv/installed
	$(BIN)/python train.py --config configs/mini_$(MODEL).yaml --qat $(QAT) $(ARGS)

# Every row of the tables: hours; may be stopped and started at any time. `make tables ARGS=--quick`: small budgets.
tables: .venv/installed
	$(BIN)/python evaluate.py suite seed_tables $(ARGS)

test: lint types suite

lint: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/tested
	$(BIN)/mypy

suite: .venv/tested
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# The README's quick start on its smallest setting: a few steps, a few utterances, the same path end to end.
quickstart: .venv/installed
	$(BIN)/python train.py --qat $(QAT) --config configs/mini_$(MODEL).yaml --trainer.max_steps 4 \
		--qat.calibration_utterances 8 --data.max_train_utterances 64 --data.max_test_utterances 6 \
		--evaluation.repeats 20 $(ARGS)

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
