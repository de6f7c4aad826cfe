"""A study of a finished run: does its action depend on the target return, what does it attend to, what does it do?

`study` plays one episode per target and works out what is below. It writes that to `study.json` in the run folder, and
reads it from there as long as checkpoint and evaluation settings are the same. No number is NaN or infinite: such a
value is null.

- ``key``: what the study depends on; where any of it changes, the run is studied again.
- ``agent``, ``env``, ``rollout`` (window, recurrent, staggered or memoryless), ``best`` and ``worst`` return in the
  dataset.
- ``episodes``: a row per target in ascending order: ``target``, ``seed``, ``return``, ``length``, ``terminated``. The
  targets are those of the run's evaluation and the dataset's best return.
- ``sensitivity`` of the action to the target, the past being what it was. For states of all episodes, spread evenly,
  the returns-to-go are shifted to those of another target from the start:
  - ``looks_at_return``: false for an agent that takes no target, whose changes are zeros.
  - ``states``: how many.
  - ``unit``: ``half the action range``, of a root mean square over states and action dimensions; of discrete actions
    ``share of states``, of those in which another action is chosen.
  - ``targets``: those of the episodes and the worst return in the dataset, ascending.
  - ``change``: for each of them, of the action against that for the best return in the dataset; null for an agent that
    takes a target and is no trajectory model.
  - ``worst_to_best``: the change between the worst and the best return in the dataset.
- ``maps`` of a trajectory model's attention in the episode with the best return as target; null for other agents. What
  is read is what the agent acted on: the last steps of its window, or its whole past. The series are
  ``[layer][head][i]`` at the observation token of step ``steps[i]``, from which its action is read:
  - ``attention``: its name. ``steps``: at most 200, spread evenly. ``tokens``: how many are read at each.
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
  ``seconds`` of the simulation that it shows from the first on; ``file`` is null where the environment cannot be
  rendered, and ``reason`` says why.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import torch
from gymnasium.envs.registration import EnvSpec

from flowrl.analysis.attention_series import attention_series
from flowrl.analysis.json_numbers import finite
from flowrl.analysis.recording import Recorder
from flowrl.analysis.sensitivity import sensitivity
from flowrl.data.stored_environments import read_spec
from flowrl.errors import InputError
from flowrl.evaluation.environments import make_env, make_vector_env
from flowrl.evaluation.rollout import playable, rollout
from flowrl.evaluation.trial import try_environment
from flowrl.evaluation.video import record_clip
from flowrl.files import read_file, write_atomically
from flowrl.nn.trajectory_actor import Recording, TrajectoryActor
from flowrl.protocols import Actor
from flowrl.training.run_folder import CHECKPOINT, RunFolder
from flowrl.training.stored_json import parse_json

FORMAT = 2  # of study.json
FILE, CLIP = "study.json", "episode.gif"


def study(run: RunFolder, load_actor: Callable[[], Actor], device: torch.device) -> dict[str, Any]:
    """The study of a finished run, see this module's docstring; it is read where the run was studied before.

    Args:
        load_actor: gives the actor of the run's checkpoint in evaluation mode, on `device`.

    Raises:
        InputError: the folder holds no finished run, is damaged, or another process owns it.
    """
    if (stored := stored_study(run)) is not None:
        return stored
    key, config = _key(run)
    with run.locked():
        new = {"key": key} | _study(run, key, config, load_actor(), device)
        content = json.dumps(new, allow_nan=False, separators=(",", ":"))
        write_atomically(run.path / FILE, content.encode())
    return json.loads(content)


def stored_study(run: RunFolder) -> dict[str, Any] | None:
    """The study in the folder of a finished run; None unless it is whole and up to date. Raises as `study` does."""
    key, _ = _key(run)
    try:
        stored = parse_json(read_file(run.path / FILE) or b"")
        whole = stored["key"] == key and (stored["clip"]["file"] is None or (run.path / CLIP).exists())
    except (ValueError, KeyError, TypeError):
        return None
    return stored if whole else None


def _key(run: RunFolder) -> tuple[dict[str, Any], dict[str, Any]]:
    """All that the run's study depends on, and the run's configuration."""
    config = run.config()
    if config is None:
        raise InputError(f"{run.path} is no run folder: it holds no config.json")
    try:
        evaluation, best = config["evaluation"], config["dataset_returns"]["percentiles"][-1]
        played = {"targets": sorted({*evaluation["targets"], best}), "episode_seed": evaluation["episode_seed"]}
        played["env_spec"] = config["env_spec"]
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(f"{run.path / 'config.json'} is of another version of flowrl: no {error}") from error
    checkpoint = run.load()
    if not run.final_rows(config):
        raise InputError(f"run {run.path} is not finished: it can be studied after its final evaluation")
    if checkpoint is None:
        raise InputError(f"run {run.path} has lost its checkpoint.pt: it cannot be studied without")
    if (
        checkpoint["step"] < config["training"]["steps"]
    ):  # the last one is damaged, and its episodes are not of this one
        raise InputError(f"run {run.path} has lost its last {CHECKPOINT}: it can be studied when it is trained again")
    weights = hashlib.sha256((run.path / CHECKPOINT).read_bytes()).hexdigest()[:16]
    return {"format": FORMAT, "step": checkpoint["step"], "checkpoint": weights} | played, config


@torch.inference_mode()
def _study(
    run: RunFolder, key: dict[str, Any], config: dict[str, Any], actor: Actor, device: torch.device
) -> dict[str, Any]:
    env, seed, targets = read_spec(config["env_spec"]), key["episode_seed"], key["targets"]
    worst, best = config["dataset_returns"]["percentiles"][0], config["dataset_returns"]["percentiles"][-1]
    alone = try_environment(env, seed=seed, episodes=len(targets)).one_at_a_time
    envs = make_vector_env(env, 1 if alone else len(targets), offset=config.get("observation_offset"))
    recorder, results, recordings = Recorder(actor), [], {}
    try:
        for some in [[target] for target in targets] if alone else [targets]:
            results += rollout(recorder, envs, some, [seed], device)
            recordings |= dict(zip(some, recorder.recordings(), strict=True))
    finally:
        envs.close()
    maps = attention_series(actor, recordings[best]) if isinstance(actor, TrajectoryActor) else None
    return {
        "agent": config["agent"],
        "env": env.id,
        "rollout": actor.rollout,
        "best": best,
        "worst": worst,
        "episodes": [
            {
                "target": result.target,
                "seed": result.seed,
                "return": finite(result.episode_return),
                "length": result.length,
                "terminated": result.terminated,
            }
            for result in results
        ],
        "sensitivity": sensitivity(actor, recordings, worst, best),
        "maps": maps,
        "clip": _clip(run, env, seed, recordings[best]),
    }


def _clip(run: RunFolder, env: EnvSpec, seed: int, recording: Recording) -> dict[str, Any]:
    probe = make_env(env)
    probe.close()
    actions = playable(recording.actions.cpu().numpy(), probe.action_space)
    try:
        clip = record_clip(actions, env, seed, run.path / CLIP)
    except ValueError as error:
        (run.path / CLIP).unlink(missing_ok=True)  # of an earlier checkpoint
        return {"file": None, "reason": str(error)}
    return {"file": CLIP} | clip._asdict()
