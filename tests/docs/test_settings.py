"""The tables of settings in docs/reference say what the presets have."""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from flowrl.agents import AGENTS
from flowrl.agents.backbone import Backbone
from flowrl.agents.rebrac import PAPER

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
SIX = ("awac", "iql", "td3-bc", "rebrac", "cql", "fql")
BY_DATASET = {"actor_cloning", "critic_cloning", "expectile", "beta", "policy", "tau"}
OF_THE_LOOP = {"precision", "log_every", "checkpoint_every"}  # options of every agent, on the page about training


def table(page: str, beginning: str) -> list[list[str]]:
    """The cells of the table whose first row begins so, without the rule under the head."""
    rows = (REFERENCE / page).read_text().partition("\n" + beginning)[2]
    assert rows, f"{page} has no table that begins with {beginning!r}"
    head, _, *body = (beginning + rows).partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in (head, *body)]


def leaves(config: Any) -> Iterator[tuple[str, Any]]:
    for field in fields(config):
        value = getattr(config, field.name)
        yield from leaves(value) if is_dataclass(value) else [(field.name, value)]


def settings(preset: str) -> dict[str, Any]:
    return dict(leaves(AGENTS[preset].config)) | dict(leaves(AGENTS[preset].training))


def option(cell: str) -> str:
    match = re.search(r"`--([a-z-]+)`", cell)
    assert match, cell
    return match[1].replace("-", "_")


def says(cell: str, name: str, value: Any) -> bool:
    """Whether a cell says that the option `name` has this value."""
    if value is None:
        return cell == ("by dataset" if name in BY_DATASET else "–")
    if isinstance(value, bool):
        return cell == ("yes" if value else "no")
    if isinstance(value, str):
        return cell == value
    if value == ():
        return cell == "none"
    return re.fullmatch(r"[\d.,]+(e-\d+)?", cell) is not None and float(cell.replace(",", "")) == pytest.approx(
        value, rel=2e-3
    )


def test_the_settings_of_cloning():
    head, *body = table("agents.md", "| | `flow`")
    shown = [re.findall(r"`([\w-]+)`", cell) for cell in head[1:]]
    wrong = [
        f"{preset}: {name} is {settings(preset).get(name)!r}, the page has {cell!r}"
        for first, *cells in body
        for presets, cell in zip(shown, cells, strict=True)
        for preset in presets
        for name in [option(first)]
        if not (cell == "" if name not in settings(preset) else says(cell, name, settings(preset)[name]))
    ]
    assert not wrong, "\n".join(wrong)


def test_the_settings_of_the_value_based_agents():
    head, *body = table("value-based-agents.md", "| | `awac`")
    assert head[1:] == [f"`{agent}`" for agent in SIX]
    rows = {option(first): cells for first, *cells in body}
    of_presets = {name for agent in SIX for name in settings(agent)} - OF_THE_LOOP
    of_presets -= {field.name for field in fields(Backbone)}
    assert rows.keys() == of_presets
    wrong = []
    for name, cells in rows.items():
        for agent, cell in zip(SIX, cells, strict=True):
            short, paper = settings(agent), settings(f"{agent}-paper")
            if name not in short:
                right = cell == ""
            else:
                said = cell.split(" / ")
                right = len(said) == (1 if short[name] == paper[name] else 2)
                right = right and says(said[0], name, short[name]) and says(said[-1], name, paper[name])
            if not right:
                wrong.append(f"{agent}: {name} is {short.get(name)!r} / {paper.get(name)!r}, the page has {cell!r}")
    assert not wrong, "\n".join(wrong)


def test_the_settings_of_the_backbone():
    _, *body = table("value-based-agents.md", "| | all six")
    assert {option(first): cell for first, cell in body}.keys() == {field.name for field in fields(Backbone)}
    wrong = [
        f"{agent}: {option(first)} is {settings(agent)[option(first)]!r}, the page has {cell!r}"
        for first, cell in body
        for agent in SIX
        if not says(cell, option(first), settings(agent)[option(first)])
    ]
    assert not wrong, "\n".join(wrong)


def test_the_papers_settings_by_dataset(random_dataset):
    head, *body = table("value-based-agents.md", "| task")
    assert sorted(row[0].strip("`") for row in body) == sorted(PAPER)
    wrong = []
    for first, *cells in body:
        dataset = replace(random_dataset([9, 4, 17]), id=f"flowrl/{first.strip('`').replace('-', '/', 1)}-v0")
        for title, cell in zip(head[1:], cells, strict=True):
            agent = "rebrac-paper" if title.startswith("ReBRAC") else "iql-paper"
            value = dict(leaves(AGENTS[agent].config.for_dataset(dataset)))[option(title)]
            if not says(cell, option(title), value):
                wrong.append(f"{title} of {dataset.id} is {value!r}, the page has {cell!r}")
    assert not wrong, "\n".join(wrong)
