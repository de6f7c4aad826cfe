# Two commands: `make demo` and `make test`. make prints the plain commands it runs.

PYTHON ?= python3
BIN := .venv/bin
DATASET := flowrl/hopper/medium-replay-v0

.PHONY: demo test fast format clean

demo: .venv/installed
	$(BIN)/python -m scripts.collect $(DATASET) --if-missing
	$(BIN)/python -m scripts.compare --datasets $(DATASET) --agents flow dt \
		--targets p75 p90 2000 2700 best --steps 1200 --evaluate-every 400 --episode-seed 20000 --precision auto --out runs/demo

test: .venv/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/pytest -n 2

# The tests that take no more than a few seconds each.
fast: .venv/installed-test
	$(BIN)/pytest -n 2 -m "not slow"

format: .venv/installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build dist

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,behavior]"
	touch $@
