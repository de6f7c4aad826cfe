# Two commands: `make demo` and `make test`; `make datasets` makes the data of docs/data.md. make prints the plain commands it runs.

PYTHON ?= python3
BIN := .venv/bin
DATASET := flowrl/hopper/medium-replay-v0

LEVELS := random medium medium-replay medium-expert expert

.PHONY: demo datasets test fast format clean

demo: .venv/installed
	$(BIN)/python -m scripts.collect $(DATASET) --if-missing
	$(BIN)/python -m scripts.compare --datasets $(DATASET) --agents flow dt \
		--targets p75 p90 2000 2700 best --steps 1200 --evaluate-every 400 --episode-seed 20000 --precision auto --out runs/demo

# All of our own MuJoCo datasets, 200,000 steps each.
datasets: .venv/installed
	for env in hopper walker2d halfcheetah; do for level in $(LEVELS); do \
		$(BIN)/python -m scripts.collect flowrl/$$env/$$level-v0 --jobs 0 --if-missing || exit 1; done; done

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
