"""The made-up runs as fixtures."""

import pytest
from made_up_runs import AGENTS, SEEDS, load, make_run

from flowrl.report import Comparison, Report


@pytest.fixture
def folders(tmp_path):
    """Every agent with two seeds on one dataset."""
    root = tmp_path / "made-up"
    return {(a, seed): make_run(root / f"{a}-seed{seed}", a, seed) for seed in SEEDS for a in AGENTS}


@pytest.fixture
def runs(folders):
    """The same, loaded."""
    return load(*folders.values())


@pytest.fixture
def comparison(runs):
    """All on one dataset."""
    return Comparison(tuple(runs))


@pytest.fixture
def two_datasets(folders, tmp_path):
    """A report of two datasets; on the second bc has one seed."""
    more = [
        make_run(tmp_path / "other" / f"{agent}-seed{seed}", agent, seed, dataset="test/other-v0")
        for agent, seed in [("flow", 0), ("dt", 0), ("bc", 0), ("flow", 1), ("dt", 1)]
    ]
    return Report.of(load(*folders.values(), *more), commands=["python -m scripts.train flow --targets 'a b'"])


@pytest.fixture
def elsewhere(tmp_path):
    """A place for more runs."""
    return tmp_path / "elsewhere"
