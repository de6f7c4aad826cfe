"""`AGENTS`: every agent by name, and agents of other packages by ``module:Name``."""

import importlib
from dataclasses import dataclass, is_dataclass

from flowrl.agents.bc import BCConfig
from flowrl.agents.dt import DT, DT_PAPER
from flowrl.agents.flow import FLOW, FLOW_PAPER, PAPER_TRAINING
from flowrl.errors import InputError, cause
from flowrl.training.config import AgentConfig, TrainingConfig


@dataclass(frozen=True)
class Preset:
    """What the name of an agent stands for: its settings and how it is trained, each a default of an option."""

    description: str
    config: AgentConfig
    training: TrainingConfig = TrainingConfig()


AGENTS: dict[str, Preset] = {
    "flow": Preset("Decision Flowformer: causal Flow-Attention", FLOW),
    "dt": Preset("Decision Transformer: softmax attention, else as flow", DT),
    "bc": Preset("behaviour cloning: a perceptron from observation to action", BCConfig()),
    "flow-paper": Preset("flow with the settings of the Flowformer authors' release", FLOW_PAPER, PAPER_TRAINING),
    "dt-paper": Preset("dt with the settings of the Flowformer authors' release", DT_PAPER, PAPER_TRAINING),
}


def find_agent(name: str) -> Preset:
    """The agent of that name in `AGENTS`; of ``module:Name`` the `Preset` or subclass of `AgentConfig` of that name.

    Raises:
        InputError: there is none.
    """
    if name in AGENTS:
        return AGENTS[name]
    module, colon, attribute = name.partition(":")
    if not (colon and module and attribute):
        raise InputError(f"unknown agent {name!r}: known are {', '.join(AGENTS)}, or module:Name for your own")
    try:
        value = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # it is the user's own code
        raise InputError(
            f"agent {name!r} cannot be imported: {cause(error)} (modules are looked for in the working directory and"
            " on PYTHONPATH)"
        ) from error
    if isinstance(value, Preset):
        return value
    if not (isinstance(value, type) and issubclass(value, AgentConfig) and is_dataclass(value)):
        raise InputError(f"agent {name!r} is neither a Preset nor a dataclass that extends AgentConfig")
    try:
        config = value()
    except (TypeError, ValueError) as error:
        raise InputError(f"agent {name!r} cannot be built from its defaults: {cause(error)}") from error
    return Preset((value.__doc__ or name).strip().splitlines()[0], config)
