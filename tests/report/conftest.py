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
    return Comparison.of(runs)


@pytest.fixture(scope="module")
def two_datasets(tmp_path_factory):
    """A report of two datasets; on the second bc has one seed."""
    root = tmp_path_factory.mktemp("two")
    folders = [
        make_run(root / place / f"{agent}-seed{seed}", agent, seed, dataset=f"test/{place}-v0")
        for place in ("made-up", "other")
        for agent, seed in [("flow", 0), ("dt", 0), ("bc", 0), ("flow", 1), ("dt", 1), ("bc", 1)]
        if (place, agent, seed) != ("other", "bc", 1)
    ]
    return Report.of(load(*folders), commands=["python -m scripts.train flow --targets 'a b'"])


@pytest.fixture
def elsewhere(tmp_path):
    """A place for more runs."""
    return tmp_path / "elsewhere"
