"""`AGENTS`: every agent by name, and agents of other packages by ``module:Name``."""

import importlib
from dataclasses import dataclass, is_dataclass, replace

from flowrl.agents.awac import AWAC_PAPER, AWAC_SHORT
from flowrl.agents.bc import BCConfig
from flowrl.agents.cql import CQL_PAPER, CQL_SHORT
from flowrl.agents.dt import DT, DT_PAPER
from flowrl.agents.flow import FLOW, FLOW_PAPER, PAPER_TRAINING
from flowrl.agents.fql import FQL_PAPER, FQL_SHORT
from flowrl.agents.iql import IQL_PAPER, IQL_SHORT
from flowrl.agents.rebrac import REBRAC_PAPER, REBRAC_SHORT
from flowrl.agents.td3_bc import TD3_BC_PAPER, TD3_BC_SHORT
from flowrl.errors import InputError, cause
from flowrl.training.config import AgentConfig, TrainingConfig


@dataclass(frozen=True)
class Preset:
    """What the name of an agent stands for: its settings and how it is trained, each a default of an option."""

    description: str
    config: AgentConfig
    training: TrainingConfig = TrainingConfig()


SHORT_TRAINING = TrainingConfig(steps=20_000, batch_size=256, checkpoint_every=2_000)
PAPER_VALUE_TRAINING = TrainingConfig(steps=1_000_000, batch_size=256, log_every=1_000, checkpoint_every=10_000)

AGENTS: dict[str, Preset] = {
    "flow": Preset("Decision Flowformer: causal Flow-Attention", FLOW),
    "dt": Preset("Decision Transformer: softmax attention, else as flow", DT),
    "bc": Preset("behaviour cloning: a perceptron from observation to action", BCConfig()),
    "awac": Preset("advantage-weighted actor critic", AWAC_SHORT, SHORT_TRAINING),
    "iql": Preset("implicit Q-learning", IQL_SHORT, SHORT_TRAINING),
    "td3-bc": Preset("TD3 with behaviour cloning", TD3_BC_SHORT, SHORT_TRAINING),
    "rebrac": Preset("TD3 with behaviour cloning in actor and critics", REBRAC_SHORT, SHORT_TRAINING),
    "cql": Preset("conservative Q-learning", CQL_SHORT, SHORT_TRAINING),
    "fql": Preset("flow Q-learning", FQL_SHORT, SHORT_TRAINING),
    "flow-paper": Preset("flow with the settings of the Flowformer authors' release", FLOW_PAPER, PAPER_TRAINING),
    "dt-paper": Preset("dt with the settings of the Flowformer authors' release", DT_PAPER, PAPER_TRAINING),
    "awac-paper": Preset("awac with the settings of the paper", AWAC_PAPER, PAPER_VALUE_TRAINING),
    "iql-paper": Preset("iql with the settings of the paper", IQL_PAPER, PAPER_VALUE_TRAINING),
    "td3-bc-paper": Preset("td3-bc with the settings of the paper", TD3_BC_PAPER, PAPER_VALUE_TRAINING),
    "rebrac-paper": Preset(
        "rebrac with the settings of the paper", REBRAC_PAPER, replace(PAPER_VALUE_TRAINING, batch_size=1_024)
    ),
    "cql-paper": Preset("cql with the settings of the paper", CQL_PAPER, PAPER_VALUE_TRAINING),
    "fql-paper": Preset("fql with the settings of the paper", FQL_PAPER, PAPER_VALUE_TRAINING),
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
