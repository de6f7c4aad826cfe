# Two commands: `make demo` and `make test`. `make datasets` collects the data of docs/guide/data.md, `make docs` builds the
# documentation site. make prints the plain commands that it runs.

PYTHON ?= python3
BIN := .venv/bin
TOY := flowrl/reach/mixed-v0
DATASET := flowrl/hopper/medium-replay-v0

LEVELS := random medium medium-replay medium-expert expert

.PHONY: demo datasets test fast wheel docs format clean

demo: .venv/installed
	@echo "1 of 2: train on a toy task and play it, half a minute"
	$(BIN)/flowrl collect $(TOY) --if-missing
	$(BIN)/flowrl train flow --dataset $(TOY) --steps 300 --context 10 --width 32 --layers 2 --heads 2 \
		--learning-rate 3e-3 --warmup-steps 30 --run-dir runs/reach
	$(BIN)/flowrl evaluate runs/reach --targets 6 9 12 15
	@echo "2 of 2: flow against dt on Hopper, at most ten minutes on two cores: a minute of data, then training, then play"
	$(BIN)/flowrl collect $(DATASET) --if-missing
	$(BIN)/flowrl compare --datasets $(DATASET) --agents "flow=flow --warmup-steps 120" "dt=dt --warmup-steps 120" \
		--steps 1200 --precision auto --targets p90 2000 best --episodes 10 --evaluate-every 0 --no-study --out runs/hopper

# All of our own MuJoCo datasets, 200,000 steps each.
datasets: .venv/installed
	for env in hopper walker2d halfcheetah; do for level in $(LEVELS); do \
		$(BIN)/flowrl collect flowrl/$$env/$$level-v0 --jobs 0 --if-missing || exit 1; done; done

test: .venv/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/pytest -n 2

# The tests that take no more than a few seconds each.
fast: .venv/installed-test
	$(BIN)/pytest -n 2 -m "not slow"

# The wheel, in a fresh environment and outside of the checkout.
wheel:
	rm -rf build/wheel
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheel .
	build/wheel/venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt build/wheel/*.whl
	build/wheel/venv/bin/python tests/packaging/check_installed.py

# The documentation site, in build/site; a broken link or an unknown name fails.
docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "built: build/site/index.html"

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

.venv/installed-docs: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@
