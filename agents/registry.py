"""`AGENTS`: every agent by name."""

from dataclasses import dataclass

from flowrl.agents.bc import BCConfig
from flowrl.agents.dt import DT, DT_PAPER
from flowrl.agents.flow import FLOW, FLOW_PAPER, PAPER_TRAINING
from flowrl.agents.sequence import SequenceConfig
from flowrl.training.loop import TrainingConfig


@dataclass(frozen=True)
class Preset:
    """A name's meaning: which agent, of what size, trained how. Every figure of it can be set from the command line."""

    description: str
    config: SequenceConfig | BCConfig
    training: TrainingConfig = TrainingConfig()


AGENTS: dict[str, Preset] = {
    "flow": Preset("Decision Flowformer: causal Flow-Attention", FLOW),
    "dt": Preset("Decision Transformer: softmax attention, else as flow", DT),
    "bc": Preset("behaviour cloning: a perceptron from observation to action; %BC with --top-fraction", BCConfig()),
    "flow-paper": Preset("flow in the setting of the Flowformer authors' release", FLOW_PAPER, PAPER_TRAINING),
    "dt-paper": Preset("dt in the setting of the Flowformer authors' release", DT_PAPER, PAPER_TRAINING),
}
