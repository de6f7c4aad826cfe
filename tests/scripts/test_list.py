"""`list` prints a table of what there is."""

import sys

import pytest

from flowrl.agents import AGENTS
from flowrl.attention import ATTENTION
from flowrl.envs.mixtures import dataset_ids
from flowrl.errors import InputError
from flowrl.scripts import list as listing


@pytest.fixture
def listed(capsys, monkeypatch):
    """The rows of a table by their first cell, and the line below it."""

    def rows(what):
        monkeypatch.setattr(sys, "argv", ["flowrl list"])
        listing.start([what])
        table, below = capsys.readouterr().out.split("\n\n")
        return {line.split()[0]: line for line in table.splitlines()[1:]}, below

    return rows


def test_datasets(listed, reach_dataset, write, numbered_episode):
    write("me/mine-v0", [numbered_episode(0, 4)])
    rows, below = listed("datasets")
    assert [*rows] == [*dataset_ids(), "me/mine-v0"]
    assert rows["flowrl/hopper/medium-v0"].split()[1:3] == ["200,000", "no"]
    assert rows[reach_dataset].split()[1:3] == ["2,000", "yes"]
    assert rows["me/mine-v0"].split()[1:] == ["–", "yes"]
    assert below.startswith("flowrl collect DATASET")


def test_agents(listed):
    rows, _ = listed("agents")
    assert [*rows] == [*AGENTS]
    assert rows["flow"].endswith(AGENTS["flow"].description)


def test_attentions(listed):
    rows, _ = listed("attentions")
    assert [*rows] == [*ATTENTION]
    assert "constant" in rows["flow"]
    assert "clip=10.0 feature_map=sigmoid output_norm=false decay=false" in rows["flow"]
    assert rows["softmax"].split()[1:3] == ["grows", "none"]
    assert "window rollout alone" in rows["reformer"]


def test_environments(listed):
    rows, _ = listed("envs")
    assert rows.keys() >= {"flowrl/Reach-v0", "flowrl/Corridor-v0", "Hopper-v5", "Ant-v5"}
    assert rows["Hopper-v5"].split(maxsplit=1)[1].split("  ")[-1].strip() == "-20.3, 3,234"
    assert "–" in rows["Ant-v5"], "it has D4RL references alone"


def test_another_word_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="'datasets', 'agents', 'attentions', 'envs'"):
        listing.start(["models"])
