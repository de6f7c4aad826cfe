"""A study of a finished run: does its action depend on the return asked for, what does it attend to, what does it do?

`study` plays one episode per target and works out what is below. It is written to `study.json` in the run folder, and
given back from there as long as checkpoint and evaluation settings are the same. No figure is NaN or infinite: where
there is none, it is null.

- ``key``: what the study was made of; another one is made where any of it changes.
- ``agent``, ``env``, ``rollout`` (window, recurrent, staggered or memoryless), ``best`` and ``worst`` known return.
- ``episodes``: a row per target in ascending order: ``target``, ``seed``, ``return``, ``length``, ``terminated``. The
  targets are those of the run's evaluation and the dataset's best return.
- ``sensitivity`` of the action to the target, the past being what it was. For states of all episodes, spread evenly,
  the returns-to-go are shifted to what they would be had another target been asked for from the start:
  - ``looks_at_return``: false for an agent that takes no return, whose figures are zeros.
  - ``states``: how many.
  - ``unit``: ``half the action range``, of a root mean square over states and action dimensions; of discrete actions
    ``share of states``, of those in which another action is chosen.
  - ``targets``: those of the episodes and the worst return in the dataset, ascending.
  - ``change``: for each of them, of the action against that for the best return in the dataset.
  - ``worst_to_best``: the change between the worst and the best return in the dataset, in one number.
- ``maps`` of a sequence agent's attention in the episode with the best return as target; null for other agents. What
  is read is what the agent acted on: the last steps of its window, or its whole past. The series are
  ``[layer][head][i]`` at the observation token of step ``steps[i]``, from which its action is read:
  - ``attention``: the name of it. ``steps``: at most 200, spread evenly. ``tokens``: how many are read at each.
  - ``attended``: exp(entropy) of the weights scaled to sum to 1, the effective number of tokens looked at.
  - ``share``: of the weight that falls on ``return``, ``observation`` and ``action`` tokens, of those a step has.
  - ``gain``: the sum of the weights, which is 1 for softmax.
  - ``flows``: null but for Flow-Attention; there ``incoming`` flow I, ``allocation`` sigmoid(Î) of this token as a
    sink, and its ``competition`` C as a source.
  - ``picture``: all effective weights of one window in the middle of the episode, ``weights[layer][head][query][key]``.
    ``step`` is its last one, ``tokens`` names each, as in ``return 481``. Of a longer past than 20 steps the last 20
    are shown, and the weights on earlier tokens are left out: ``tokens_before`` is how many, and
    ``gain[layer][head][query]`` the sum of all weights of a token, those left out among them.
- ``clip``: ``file`` in the run folder, a moving picture of the same episode, its ``frames``, and the ``steps`` and
  ``seconds`` of the simulation that it shows from the first on; ``file`` is null where none could be made, and
  ``reason`` says why.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from torch import Tensor

from flowrl.agents import BCAgent, SequenceAgent, load_agent
from flowrl.analysis.attention_maps import attention_maps, summarise
from flowrl.analysis.recording import Recorder, Recording
from flowrl.errors import InputError
from flowrl.evaluation.environments import make_env, make_vector_env
from flowrl.evaluation.rollout import playable, rollout
from flowrl.evaluation.video import record_clip
from flowrl.files import write_atomically
from flowrl.nn.normaliser import Normaliser
from flowrl.training.run_folder import RunFolder

FORMAT = 2  # of study.json
FILE, CLIP = "study.json", "episode.gif"
MOST_STATES = 1_000
MOST_STEPS = 200
PICTURE_STEPS = 20
TOKENS_AT_ONCE = 16_384  # through the model
FLOWS = ("incoming", "competition", "allocation")


def study(run: RunFolder, device: torch.device) -> dict[str, Any]:
    """The study of a finished run, see this module's docstring; made once, and afterwards read.

    Raises:
        InputError: the folder holds no finished run, is damaged, or another process owns it.
    """
    if (stored := stored_study(run)) is not None:
        return stored
    key, config = _key(run)
    with run.locked():
        made = {"key": key} | _study(run, key, config, device)
        content = json.dumps(made, allow_nan=False, separators=(",", ":"))
        write_atomically(run.path / FILE, content.encode())
    return json.loads(content)


def _key(run: RunFolder) -> tuple[dict[str, Any], dict[str, Any]]:
    """All that the run's study depends on, and the run's configuration."""
    config = run.config()
    if config is None:
        raise InputError(f"{run.path} is no run folder: it holds no config.json")
    try:
        evaluation, best = config["evaluation"], config["dataset_returns"]["percentiles"][-1]
        asked = {"targets": sorted({*evaluation["targets"], best}), "episode_seed": evaluation["episode_seed"]}
        asked["env_spec"] = config["env_spec"]
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(f"{run.path / 'config.json'} is of another version of flowrl: no {error}") from error
    checkpoint = run.load()
    if not run.final_rows(config):
        raise InputError(f"run {run.path} is not finished: it can be studied after its final evaluation")
    if checkpoint is None:
        raise InputError(
            f"run {run.path} has no checkpoint.pt any more, and only that can be studied: --no-study does without"
        )
    weights = hashlib.sha256((run.path / "checkpoint.pt").read_bytes()).hexdigest()[:16]
    return {"format": FORMAT, "step": checkpoint["step"], "checkpoint": weights} | asked, config


def stored_study(run: RunFolder) -> dict[str, Any] | None:
    """The study of a finished run that was made before, if it is whole and still holds; raises as `study` does."""
    key, _ = _key(run)
    try:
        stored = json.loads((run.path / FILE).read_text())
        whole = stored["key"] == key and (stored["clip"]["file"] is None or (run.path / CLIP).exists())
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return stored if whole else None


@torch.inference_mode()
def _study(run: RunFolder, key: dict[str, Any], config: dict[str, Any], device: torch.device) -> dict[str, Any]:
    agent, _ = load_agent(run, device)
    agent.eval()
    env, seed, targets = EnvSpec.from_json(config["env_spec"]), key["episode_seed"], key["targets"]
    worst, best = config["dataset_returns"]["percentiles"][0], config["dataset_returns"]["percentiles"][-1]
    recorder, envs = Recorder(agent), make_vector_env(env, len(targets))
    try:
        results = rollout(recorder, envs, targets, [seed], device)
    finally:
        envs.close()
    recordings = dict(zip(targets, recorder.recordings(), strict=True))
    if isinstance(agent, SequenceAgent):
        reads, maps = agent.config.acts, attention_series(agent, recordings[best])
    else:
        reads, maps = "memoryless", None
    return {
        "agent": config["agent"],
        "env": env.id,
        "rollout": reads,
        "best": best,
        "worst": worst,
        "episodes": [
            {
                "target": result.target,
                "seed": result.seed,
                "return": _finite(result.achieved),
                "length": result.length,
                "terminated": result.terminated,
            }
            for result in results
        ],
        "sensitivity": sensitivity(agent, recordings, worst, best),
        "maps": maps,
        "clip": _clip(run, env, seed, recordings[best]),
    }


@torch.inference_mode()
def sensitivity(
    agent: SequenceAgent | BCAgent, recordings: Mapping[float, Recording], worst: float, best: float
) -> dict[str, Any]:
    """How much the action depends on the target: the field `sensitivity` of this module's docstring.

    Args:
        agent: in evaluation mode.
        recordings: the episode of each target, the best return among them.
        worst: return in the dataset.
        best: return in the dataset.
    """
    asked = sorted({*recordings, worst})
    lengths = [len(recording.returns_to_go) for recording in recordings.values()]
    states = spread(sum(lengths), MOST_STATES)
    if isinstance(agent, SequenceAgent):
        starts = np.cumsum([0, *lengths])
        steps = [states[(states >= start) & (states < end)] - start for start, end in pairwise(starts)]
        actions = {
            other: torch.cat([
                _act_as_if(agent, recording, mine, other - target)
                for (target, recording), mine in zip(recordings.items(), steps, strict=True)
            ])
            for other in asked
        }  # fmt: skip
        change = [_difference(agent.normaliser, actions[other], actions[best]) for other in asked]
    else:
        change = [0.0] * len(asked)
    return {
        "looks_at_return": isinstance(agent, SequenceAgent),
        "states": len(states),
        "unit": "share of states" if agent.normaliser.discrete else "half the action range",
        "targets": asked,
        "change": change,
        "worst_to_best": change[asked.index(worst)],
    }


def _act_as_if(agent: SequenceAgent, recording: Recording, steps: np.ndarray, shift: float) -> Tensor:
    """(steps, action size): the actions had a return been asked for that is greater by `shift`."""
    shifted = recording._replace(returns_to_go=recording.returns_to_go + shift)
    return torch.cat([agent.act_again(agent.seen(shifted, some)) for some in _portions(agent, shifted, steps)])


def _difference(normaliser: Normaliser, one: Tensor, other: Tensor) -> float | None:
    if normaliser.discrete:
        return _finite((one != other).any(-1).double().mean().item())
    return _finite((normaliser.actions(one) - normaliser.actions(other)).double().square().mean().sqrt().item())


@torch.inference_mode()
def attention_series(agent: SequenceAgent, recording: Recording) -> dict[str, Any]:
    """What is attended to over an episode: the field `maps` of this module's docstring.

    Args:
        agent: in evaluation mode.
    """
    steps = spread(len(recording.returns_to_go), MOST_STEPS)
    portions = [_series(agent, recording, some) for some in _portions(agent, recording, steps)]
    series = {name: torch.cat([portion[name] for portion in portions], -1) for name in portions[0]}
    tokens = series.pop("tokens").tolist()
    figures = {name: _rounded(values, ".5g") for name, values in series.items()}
    return {
        "attention": agent.config.attention,
        "steps": steps.tolist(),
        "tokens": tokens,
        "attended": figures["attended"],
        "share": {kind: figures[kind] for kind in agent.model.kinds},
        "gain": figures["gain"],
        "flows": {name: figures[name] for name in FLOWS} if FLOWS[0] in figures else None,
        "picture": _picture(agent, recording),
    }


def _series(agent: SequenceAgent, recording: Recording, steps: Tensor) -> dict[str, Tensor]:
    """Figures by name, (layers, heads, steps) each; `tokens`, (steps,), is how many are read."""
    seen = agent.seen(recording, steps)
    kinds = agent.model.kinds
    token = seen.position * len(kinds) + agent.model.acting_token
    at, row = token.unique(return_inverse=True)
    columns: dict[str, list[Tensor]] = defaultdict(list)
    for layer in attention_maps(agent.model, *seen[:4], at):
        summary = summarise(layer.weights[seen.window, :, row], len(kinds))
        columns["attended"].append(summary.attended)
        columns["gain"].append(summary.gain)
        for kind, share in zip(kinds, summary.share.unbind(-1), strict=True):
            columns[kind].append(share)
        for name in FLOWS if layer.flows else ():
            columns[name].append(getattr(layer.flows, name)[seen.window, :, token])
    made = {name: torch.stack(layers).transpose(1, 2) for name, layers in columns.items()}
    return made | {"tokens": token + 1}


def _picture(agent: SequenceAgent, recording: Recording) -> dict[str, Any]:
    length = len(recording.returns_to_go)
    step = min(length - 1, max((agent.acting.context or 1) - 1, length // 2))
    seen = agent.seen(recording, torch.tensor([step], device=recording.actions.device))
    position = int(seen.position)
    kinds = agent.model.kinds
    first = max(0, position + 1 - PICTURE_STEPS)
    shown = slice(len(kinds) * first, len(kinds) * position + agent.model.acting_token + 1)
    maps = attention_maps(agent.model, *seen[:4], shown)
    return {
        "step": step,
        "tokens": [f"{kind} {t}" for t in seen.timesteps[0].tolist() for kind in kinds][shown],
        "tokens_before": shown.start,
        "weights": [_rounded(layer.weights[0, :, :, shown], ".5f") for layer in maps],
        "gain": [_rounded(layer.weights[0].sum(-1), ".5g") for layer in maps],
    }


def _clip(run: RunFolder, env: EnvSpec, seed: int, recording: Recording) -> dict[str, Any]:
    made = make_env(env)
    made.close()
    actions = playable(recording.actions.cpu().numpy(), made.action_space)
    try:
        clip = record_clip(actions, env, seed, run.path / CLIP)
    except ValueError as error:
        (run.path / CLIP).unlink(missing_ok=True)  # of an earlier checkpoint
        return {"file": None, "reason": str(error)}
    return {"file": CLIP} | clip._asdict()


def spread(length: int, most: int) -> np.ndarray:
    """At most so many of the numbers below `length`, evenly, the first and the last among them."""
    return np.linspace(0, length - 1, min(length, most)).round().astype(np.int64)


def _portions(agent: SequenceAgent, recording: Recording, steps: np.ndarray) -> Sequence[Tensor]:
    """Steps that are looked at together; those that read the whole past share it, and it is read once."""
    wanted = torch.from_numpy(steps).to(recording.actions.device)
    if agent.acting.most is None or not len(steps):
        return (wanted,)
    return wanted.split(max(1, TOKENS_AT_ONCE // (len(agent.model.kinds) * agent.acting.most)))


def _rounded(values: Tensor, digits: str) -> list[Any]:
    """Nested lists of numbers, formatted as `digits` says; None for what is not finite."""
    if values.ndim > 1:
        return [_rounded(part, digits) for part in values]
    return [None if (number := _finite(value)) is None else float(format(number, digits)) for value in values.tolist()]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
