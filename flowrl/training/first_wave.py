"""Runs of the first wave, in today's terms: they can be evaluated, but not trained further.

Their checkpoints hold an agent instead of a learner, how an agent is cloned was a setting of the loop, and our
environments were the package `envs`.
"""

from typing import Any

# Settings of a sequence agent that older runs did not record yet.
_BEFORE = {
    "attention_options": [],
    "convolution": 0,
    "tokens": "return-observation-action",
    "carry_state": False,
    "acting_context": None,
}
# Settings of the loop that are the agent's now.
_CLONING = ("learning_rate", "weight_decay", "warmup_steps", "schedule", "clip_norm", "windows", "compile")


def is_first_wave(checkpoint: Any) -> bool:
    """Whether it is a checkpoint of the first wave."""
    keys = {"agent", "optimiser", "schedule", "step", "config", "fingerprint"}
    return isinstance(checkpoint, dict) and keys <= checkpoint.keys() and "learner" not in checkpoint


def is_first_wave_config(config: Any) -> bool:
    """Whether it is the configuration of a run of the first wave."""
    if not isinstance(config, dict) or not all(isinstance(config.get(n), dict) for n in ("agent_config", "training")):
        return False
    return "cloning" not in config["agent_config"] and "learning_rate" in config["training"]


def upgraded_checkpoint(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Its weights and optimiser as those of a cloning learner; how the data went on is lost."""
    # The performer counted its steps in a buffer; now the loop tells it the step.
    weights = {name: tensor for name, tensor in checkpoint["agent"].items() if not name.endswith(".training_steps")}
    learner = {"actor": weights} | {name: checkpoint[name] for name in ("optimiser", "schedule")}
    kept = {name: checkpoint[name] for name in ("step", "fingerprint")}
    return kept | {"learner": learner, "config": upgraded_config(checkpoint["config"])}


def upgraded_config(config: Any) -> Any:
    """The configuration of a run of the first wave in today's form; any other as it is."""
    if not is_first_wave_config(config):
        return config
    agent, training = config["agent_config"], config["training"]
    cloning = {name: training[name] for name in _CLONING if name in training}
    kept = {name: value for name, value in training.items() if name not in _CLONING}
    before = _BEFORE if "attention" in agent else {}
    upgraded = config | {"agent_config": before | agent | {"cloning": cloning}, "training": kept}
    if isinstance(spec := config.get("env_spec"), str):
        upgraded["env_spec"] = spec.replace('"entry_point": "envs.', '"entry_point": "flowrl.envs.')
    return upgraded
