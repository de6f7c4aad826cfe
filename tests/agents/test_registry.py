"""Agents by name: the presets, and agents of other packages."""

import inspect
import re
import textwrap
from dataclasses import asdict, fields, is_dataclass, replace

import pytest
import torch

from flowrl.agents import AGENTS, Preset, find_agent
from flowrl.agents.bc import BCConfig
from flowrl.agents.cloning import CloningConfig
from flowrl.agents.sequence import SequenceConfig
from flowrl.errors import InputError
from flowrl.nn.normaliser import Normaliser
from flowrl.training.config import AgentConfig, TrainingConfig


@pytest.mark.parametrize(("ours", "theirs"), [("flow", "dt"), ("flow-paper", "dt-paper")])
def test_flow_and_dt_differ_in_their_attention_alone(ours, theirs):
    one, two = AGENTS[ours], AGENTS[theirs]
    assert asdict(one.config) == asdict(two.config) | {"attention": "flow"}
    assert two.config.attention == "softmax"
    assert one.training == two.training


def test_the_presets_are_the_literatures():
    config = AGENTS["flow"].config
    assert (config.context, config.width, config.layers, config.dropout) == (20, 128, 3, 0.1)
    assert config.cloning.clip_norm == 0.25
    assert config.cloning.warmup_steps > 0
    paper = AGENTS["flow-paper"].config
    assert (paper.width, paper.heads, paper.cloning.learning_rate) == (256, 4, 1e-3)
    assert {"flow", "dt", "bc", "flow-paper", "dt-paper"} <= AGENTS.keys()
    assert all(preset.description for preset in AGENTS.values())


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_comes_back_from_its_record(name):
    config = AGENTS[name].config
    record = config.record()
    assert type(config).from_record(record).record() == record


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_is_built_for_data_of_a_task_of_the_papers(name, random_dataset):
    dataset = replace(random_dataset([9, 4]), id="flowrl/hopper/medium-v0")
    config = AGENTS[name].config.for_dataset(dataset)
    learner = config.build(Normaliser.of(dataset), TrainingConfig(), torch.device("cpu"))
    assert isinstance(learner.actor.conditioned, bool)
    assert learner.state_dict()["actor"].keys() == learner.actor.state_dict().keys()


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A module of another package with agents."""
    (tmp_path / "outside_agents.py").write_text(
        textwrap.dedent('''
        from dataclasses import dataclass

        from flowrl.agents import Preset
        from flowrl.agents.bc import BCConfig
        from flowrl.training.config import AgentConfig, TrainingConfig

        @dataclass(frozen=True)
        class Mine(AgentConfig):
            """My agent.

            More about it.
            """

            size: int = 3

            def build(self, normaliser, training, device):
                return None

        @dataclass(frozen=True)
        class Needy(AgentConfig):
            size: int

            def build(self, normaliser, training, device):
                return None

        NARROW = Preset("a narrow bc", BCConfig(width=8), TrainingConfig(steps=7))
        OTHER = 3
        ''')
    )
    (tmp_path / "broken_agents.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("outside")
def test_an_agent_of_another_package_has_the_name_of_its_class():
    preset = find_agent("outside_agents:Mine")
    assert isinstance(preset.config, AgentConfig)
    assert preset.config.record() == {"size": 3}
    assert type(preset.config).from_record({"size": 5}).size == 5
    assert (preset.description, preset.training) == ("My agent.", TrainingConfig())


@pytest.mark.usefixtures("outside")
def test_a_preset_of_another_package_has_the_name_of_its_variable():
    preset = find_agent("outside_agents:NARROW")
    assert isinstance(preset, Preset)
    assert (preset.description, preset.training.steps) == ("a narrow bc", 7)


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("decision-mamba", "unknown agent 'decision-mamba': known are flow, dt, bc, .*or module:Name"),
        ("", "unknown agent ''"),
        (":Mine", "unknown agent ':Mine'"),
        ("outside_agents:", "unknown agent"),
        ("outside_agents:Nobody", "agent 'outside_agents:Nobody' cannot be imported"),
        ("nowhere_at_all:Mine", "agent 'nowhere_at_all:Mine' cannot be imported: No module named"),
        ("broken_agents:Mine", "agent 'broken_agents:Mine' cannot be imported: division by zero"),
        ("outside_agents:OTHER", "neither a Preset nor a dataclass that extends AgentConfig"),
        ("outside_agents:AgentConfig", "neither a Preset nor a dataclass that extends AgentConfig"),
        (
            "outside_agents:Needy",
            "agent 'outside_agents:Needy' cannot be built from its defaults: .*missing 1 required .*'size'",
        ),
    ],
)
def test_what_is_no_agent_is_refused_in_one_sentence(name, message):
    with pytest.raises(InputError, match=message) as caught:
        find_agent(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", [SequenceConfig, BCConfig, CloningConfig, TrainingConfig])
def test_every_setting_explains_itself(config):
    """`--help` shows the sentence under each field; one that is a configuration itself explains its own."""
    source = "".join(inspect.getsource(part) for part in config.__mro__ if part is not object)
    for field in fields(config):
        if not is_dataclass(field.default):
            assert re.search(rf'^    {field.name}: .*(?:\n    \)|\n    .*\n    \))?\n    """', source, re.MULTILINE), (
                field.name
            )
