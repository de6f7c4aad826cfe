"""Train the policies that scripts.collect plays, and keep snapshots of them from the first step on.

    python -m scripts.train_behavior hopper

Needs the extra `flowrl[behavior]` (Stable-Baselines3). This script made the snapshots in `envs/policies/`; with the
same seed, versions and kind of machine it makes them again, if it is not interrupted.
"""

import csv
import datetime
import importlib.metadata
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from flowrl.envs.behavior import POLICIES, Player, read_policy, snapshot_path
from flowrl.errors import InputError
from flowrl.evaluation.environments import make_env
from flowrl.scripts.cli import parse, run

MEASURING_SEED = 1_000_003  # no dataset is collected with it, so the figures are of other episodes
STATE_EVERY = 300.0  # seconds of training that a kill loses at most
REPORT_EVERY = 20.0  # seconds


@dataclass(frozen=True)
class Recipe:
    """One environment, the algorithm that learns it soonest on one CPU core, and which snapshots are kept."""

    env_id: str
    algorithm: str
    """A name in `ALGORITHMS`."""
    steps: int
    """Training steps, of all environments together."""
    chunk: int
    """Steps between two points of the learning curve; snapshots are taken at multiples of it."""
    snapshots: tuple[int, ...]
    """After which steps the policy is kept, 0 first."""
    early: int
    """The snapshot that is far better than random and far from good."""
    medium: int
    """The snapshot at about half of the best return (D4RL's is at about 40 %); replay datasets end with it."""
    expert: int
    """The best snapshot."""
    seed: int = 0
    """Of the training whose snapshots are shipped."""
    num_envs: int = 2
    rates: tuple[tuple[int, float], ...] = ()
    """From which step on which learning rate holds; none: the algorithm's own, constant."""

    expert_noise: float = 0.5
    """The expert is kept with this share of the standard deviation by which it explored: with all of it, it falls."""

    def __post_init__(self) -> None:
        if uneven := [steps for steps in (self.steps, *self.snapshots) if steps % self.chunk]:
            raise ValueError(f"steps and snapshots must be multiples of {self.chunk}, not {uneven}")
        if missing := {0, self.early, self.medium, self.expert} - set(self.snapshots):
            raise ValueError(f"stages must be snapshots; {sorted(missing)} are not")


ROLLOUT = 1024  # TRPO's steps of each environment between two updates

# What RL Baselines3 Zoo tuned TRPO to for MuJoCo.
TRPO = {
    "n_steps": ROLLOUT,
    "batch_size": 128,
    "learning_rate": 1e-3,  # of the critic; the policy's step is TRPO's
    "n_critic_updates": 20,
    "cg_max_steps": 25,
    "cg_damping": 0.1,
    "gamma": 0.99,
    "gae_lambda": 0.95,
}
# Fujimoto et al. (2018) with a narrower network, and one gradient step to two environment steps: a CPU core has
# simulated both in a twentieth of the time that the gradient step takes.
TD3 = {
    "learning_rate": 1e-3,
    "batch_size": 128,
    "learning_starts": 10_240,
    "train_freq": (32, "step"),  # of each environment
    "gradient_steps": 32,
    "policy_kwargs": {"net_arch": [256, 256], "optimizer_kwargs": {"fused": True}},
}
EXPLORATION_NOISE = 0.1  # TD3's standard deviation, in units of half the action range

# Snapshots are dense while a policy learns to walk, since a replay dataset is made of these, then sparse. TRPO goes up
# and down from there on (Hopper sampled 1,700 to 3,300 between 540,000 and 610,000 steps): each training ends where it
# is good. The stages were chosen by the returns that envs/policies/*/snapshots.json record.
RECIPES = {
    "hopper": Recipe(
        "Hopper-v5",
        "TRPO",
        steps=573_440,
        chunk=2 * ROLLOUT,
        snapshots=(*range(0, 163_841, 20_480), *range(245_760, 573_441, 81_920)),
        early=40_960,
        medium=245_760,
        expert=573_440,
    ),
    "walker2d": Recipe(
        "Walker2d-v5",
        "TRPO",
        steps=839_680,
        chunk=2 * ROLLOUT,
        snapshots=(0, *range(20_480, 307_201, 40_960), 450_560, 573_440, 696_320, 839_680),
        early=102_400,
        medium=307_200,
        expert=839_680,
    ),
    "halfcheetah": Recipe(
        "HalfCheetah-v5",
        "TD3",
        steps=911_360,
        chunk=5_120,
        snapshots=(*range(0, 102_401, 20_480), 143_360, 184_320, 409_600, 614_400, 819_200, 911_360),
        early=61_440,
        medium=184_320,
        expert=911_360,
        # At the first rate the return rose by 2 % only from 470,000 to 620,000 steps.
        rates=((0, 1e-3), (624_640, 3e-4), (824_320, 1e-4)),
    ),
}


@dataclass(frozen=True)
class Args:
    """Train the behaviour policies of one environment and measure every snapshot."""

    env: Annotated[str, tyro.conf.Positional]
    """Which recipe: hopper, walker2d or halfcheetah."""
    steps: int | None = None
    """Stop after so many training steps, rounded up to whole chunks of the recipe; the recipe's number if not given."""
    seed: int | None = None
    """Seed of the training; the recipe's if not given."""
    episodes: int = 100
    """Episodes by which each snapshot is measured."""
    out: Path | None = None
    """The snapshots and their measurements are put in a folder per environment here, at the very end. If not given:
    envs/policies, or the run folder where --steps or --seed are not the recipe's."""
    run_dir: Path | None = None
    """Saved state, snapshots and learning curve; runs/behavior/ENV if not given. A killed training goes on from it."""


def main(args: Args) -> None:
    """Train (or go on), measure each snapshot, then put all of them in place.

    Raises:
        InputError: unknown environment, a number below 1, or Stable-Baselines3 is missing.
    """
    if args.env not in RECIPES:
        raise InputError(f"no recipe for {args.env!r}; known are {', '.join(RECIPES)}")
    recipe = RECIPES[args.env]
    steps = recipe.steps if args.steps is None else -(-args.steps // recipe.chunk) * recipe.chunk
    if steps < 1 or args.episodes < 1:
        raise InputError(f"--steps and --episodes must be at least 1, not {args.steps} and {args.episodes}")
    seed = recipe.seed if args.seed is None else args.seed
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed is {seed}: it must be at least 0 and below 2^32")
    run_dir = args.run_dir or Path("runs/behavior") / args.env
    _claim(run_dir, args.env)
    # A training that is not the recipe's must not take the place of the policies that datasets are made of.
    ours = steps == recipe.steps and seed == recipe.seed
    out = args.out or (POLICIES if ours else run_dir / "policies")
    kept = [snapshot for snapshot in recipe.snapshots if snapshot < steps] + [steps]
    train(recipe, steps, kept, seed, run_dir)
    rows = [measure(recipe.env_id, run_dir, snapshot, args.episodes) for snapshot in kept]
    command = f"python -m scripts.train_behavior {args.env} --steps {steps} --seed {seed}"
    publish(recipe, rows, command, run_dir, out / args.env)


def _claim(run_dir: Path, name: str) -> None:
    """Make the run folder of a recipe, or see that it is of this one."""
    mark = run_dir / "recipe"
    if mark.exists() and mark.read_text() != name:
        raise InputError(f"{run_dir} holds a training of {mark.read_text()}: give another --run-dir")
    run_dir.mkdir(parents=True, exist_ok=True)
    mark.write_text(name)


def train(recipe: Recipe, steps: int, kept: Sequence[int], seed: int, run_dir: Path) -> None:
    """Train up to `steps`, from the state saved in `run_dir` if there is one, saving the snapshots in `kept`.

    A training that went on from a saved state starts new episodes there: good, but not bit-equal to one in one go.
    """
    simulators = _simulators(recipe, seed)
    make, load = ALGORITHMS[recipe.algorithm]
    from stable_baselines3.common.utils import ConstantSchedule

    torch.set_num_threads(1)
    state = run_dir / "state"
    if not state.exists() and (run_dir / "state.old").exists():
        (run_dir / "state.old").rename(state)
    if state.exists():
        model = load(state, simulators)
        if model.seed != seed or model.num_timesteps > steps:
            raise InputError(
                f"{run_dir} holds a training with seed {model.seed} at step {model.num_timesteps:,}: "
                "give another --run-dir, or that --seed and no fewer --steps"
            )
        curve = [row for row in _read_curve(run_dir / "curve.csv") if int(row[0]) <= model.num_timesteps]
        resumed = [step for step in read_resumed(run_dir) if step <= model.num_timesteps] + [model.num_timesteps]
        (run_dir / "resumed.json").write_text(json.dumps(resumed))
        print(f"{run_dir} goes on at step {model.num_timesteps:,}", flush=True)
    else:
        model = make(simulators, seed)
        curve = []
    began, first, said = time.monotonic(), model.num_timesteps, 0.0
    saved = time.monotonic()
    while True:
        if model.num_timesteps in kept:
            arrays = policy_arrays(model)
            if model.num_timesteps == recipe.expert:
                arrays["log_std"] = arrays["log_std"] + np.log(recipe.expert_noise)
            write_arrays(snapshot_path(run_dir, model.num_timesteps), arrays)
        if model.num_timesteps >= steps:
            break
        for begin, rate in recipe.rates:
            if model.num_timesteps >= begin:
                model.lr_schedule = ConstantSchedule(rate)
        model.learn(recipe.chunk, reset_num_timesteps=False)
        curve.append([model.num_timesteps, *(_recent(model, key) for key in ("r", "l"))])
        _write_curve(run_dir / "curve.csv", curve)
        now = time.monotonic()
        if now - saved >= STATE_EVERY or model.num_timesteps >= steps:
            save_state(model, state)
            saved = time.monotonic()
        if now - said >= REPORT_EVERY or model.num_timesteps >= steps:
            said = now
            speed = (model.num_timesteps - first) / (now - began)
            left = (steps - model.num_timesteps) / speed
            print(
                f"step {model.num_timesteps:,} of {steps:,}  return {curve[-1][1]:,.0f}  length {curve[-1][2]:,.0f}"
                f"  {speed:,.0f} steps/s  {left / 60:.1f} min left",
                flush=True,
            )
    model.env.close()


def _make_trpo(simulators: Any, seed: int) -> Any:
    from sb3_contrib import TRPO as Trainer
    from stable_baselines3.common.vec_env import VecNormalize

    return Trainer("MlpPolicy", VecNormalize(simulators, gamma=TRPO["gamma"]), seed=seed, device="cpu", **TRPO)


def _load_trpo(state: Path, simulators: Any) -> Any:
    from sb3_contrib import TRPO as Trainer
    from stable_baselines3.common.vec_env import VecNormalize

    env = VecNormalize.load(str(state / "normalizer.pkl"), simulators)
    return Trainer.load(state / "model.zip", env=env, device="cpu")


def _make_td3(simulators: Any, seed: int) -> Any:
    from stable_baselines3 import TD3 as Trainer
    from stable_baselines3.common.noise import NormalActionNoise

    size = simulators.action_space.shape
    noise = NormalActionNoise(np.zeros(size), np.full(size, EXPLORATION_NOISE))
    return Trainer("MlpPolicy", simulators, action_noise=noise, seed=seed, device="cpu", **TD3)


def _load_td3(state: Path, simulators: Any) -> Any:
    from stable_baselines3 import TD3 as Trainer

    model = Trainer.load(state / "model.zip", env=simulators, device="cpu")
    model.load_replay_buffer(state / "replay.pkl")
    return model


ALGORITHMS: dict[str, tuple[Callable[[Any, int], Any], Callable[[Path, Any], Any]]] = {
    "TRPO": (_make_trpo, _load_trpo),
    "TD3": (_make_td3, _load_td3),
}
"""How to start a training, and how to go on with a saved one."""


def policy_arrays(model: Any) -> dict[str, np.ndarray]:
    """What `read_policy` needs of a model of Stable-Baselines3 and its VecNormalize, if it has one.

    TD3 plays uniformly random actions before it learns: its policy after 0 steps is these, so it has no layer.
    """
    space = model.env.action_space
    arrays = {"low": space.low, "high": space.high}
    off_policy = hasattr(model.policy, "actor")
    if off_policy and model.num_timesteps == 0:
        return arrays
    if off_policy:
        layers = model.policy.actor.mu[::2]
        half_range = (space.high - space.low) / 2
        arrays |= {"log_std": np.log(EXPLORATION_NOISE * half_range), "hidden": np.array("relu"), "squash": np.array(1)}
    else:
        layers = [*model.policy.mlp_extractor.policy_net[::2], model.policy.action_net]
        arrays["log_std"] = model.policy.log_std.detach().numpy()
    if (normaliser := model.get_vec_normalize_env()) is not None:
        arrays |= {
            "observation_mean": normaliser.obs_rms.mean,
            "observation_std": np.sqrt(normaliser.obs_rms.var + normaliser.epsilon),
            "observation_clip": np.array(normaliser.clip_obs),
        }
    for number, layer in enumerate(layers):
        arrays[f"weight_{number}"] = layer.weight.detach().numpy()
        arrays[f"bias_{number}"] = layer.bias.detach().numpy()
    return arrays


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an `.npz` that is either whole or not there."""
    temporary = path.with_suffix(".partial")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    os.replace(temporary, path)


def read_resumed(run_dir: Path) -> list[int]:
    """The steps at which a training went on from a saved state."""
    path = run_dir / "resumed.json"
    return json.loads(path.read_text()) if path.exists() else []


def save_state(model: Any, state: Path) -> None:
    """Save all that a training goes on from, together: a kill leaves the old state or the new one, no mixture."""
    temporary, old = state.with_name("state.partial"), state.with_name("state.old")
    for folder in (temporary, old):
        shutil.rmtree(folder, ignore_errors=True)
    temporary.mkdir()
    model.save(temporary / "model.zip")
    if (normaliser := model.get_vec_normalize_env()) is not None:
        normaliser.save(str(temporary / "normalizer.pkl"))
    if hasattr(model, "replay_buffer"):
        model.save_replay_buffer(temporary / "replay.pkl")
    if state.exists():
        state.rename(old)
    temporary.rename(state)


def measure(env_id: str, run_dir: Path, steps: int, episodes: int) -> dict[str, float]:
    """Returns of a snapshot over `episodes` sampled episodes, and a quarter as many deterministic ones."""
    policy = read_policy(snapshot_path(run_dir, steps))
    player = Player(make_env(env_id))

    def returns(count: int, sample: bool) -> np.ndarray:
        return np.array([player.episode(policy, MEASURING_SEED, i, sample=sample).rewards.sum() for i in range(count)])

    sampled, deterministic = returns(episodes, sample=True), returns(-(-episodes // 4), sample=False)
    row = {
        "steps": steps,
        "episodes": episodes,
        "sampled_mean": round(float(sampled.mean()), 1),
        "sampled_std": round(float(sampled.std()), 1),
        "deterministic_mean": round(float(deterministic.mean()), 1),
    }
    print(
        f"snapshot {steps:,}: sampled {row['sampled_mean']:,} ± {row['sampled_std']:,}, "
        f"deterministic {row['deterministic_mean']:,}",
        flush=True,
    )
    return row


def stages(recipe: Recipe, kept: Sequence[int]) -> dict[str, int]:
    """The named stages; in a training that stopped before one, the last snapshot stands for it."""
    wanted = {"random": 0, "early": recipe.early, "medium": recipe.medium, "expert": recipe.expert}
    return {name: max(steps for steps in kept if steps <= due) for name, due in wanted.items()}


def publish(recipe: Recipe, rows: Sequence[Mapping[str, float]], command: str, run_dir: Path, out: Path) -> None:
    """Put the snapshots, their figures and the learning curve in the folder `out`, in the place of what is there."""
    final, out = out, out.with_name(f".{out.name}.partial")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    last = rows[-1]["steps"]
    curve = [row for row in _read_curve(run_dir / "curve.csv") if int(row[0]) <= last]
    _write_curve(out / "curve.csv", curve)
    draw_curve(out / "curve.png", recipe, curve, rows)
    for row in rows:
        shutil.copyfile(snapshot_path(run_dir, int(row["steps"])), snapshot_path(out, int(row["steps"])))
    packages = ("gymnasium", "mujoco", "numpy", "sb3-contrib", "stable-baselines3", "torch")
    index = {
        "env_id": recipe.env_id,
        "algorithm": {"TRPO": "TRPO (sb3-contrib)", "TD3": "TD3 (Stable-Baselines3)"}[recipe.algorithm],
        "command": command,
        "date": datetime.date.today().isoformat(),
        "resumed": [steps for steps in read_resumed(run_dir) if steps < last],
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "recipe": asdict(recipe),
        "hyperparameters": {"TRPO": TRPO, "TD3": TD3}[recipe.algorithm],
        "stages": stages(recipe, [int(row["steps"]) for row in rows]),
        "snapshots": list(rows),
    }
    (out / "snapshots.json").write_text(json.dumps(index, indent=1) + "\n")
    replaced = final.with_name(f".{final.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if final.exists():
        final.rename(replaced)
    out.rename(final)
    shutil.rmtree(replaced, ignore_errors=True)
    print(f"wrote {len(rows)} snapshots to {final}; stages {index['stages']}")
    if final.parent == POLICIES:
        print("next: python -m scripts.measure_references, then collect anew")


def draw_curve(path: Path, recipe: Recipe, curve: Sequence[Sequence[Any]], rows: Sequence[Mapping[str, float]]) -> None:
    """A picture of the returns in training and of the snapshots that were kept."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    steps, returns = ([float(row[column]) for row in curve] for column in (0, 1))
    axes.plot(steps, returns, color="0.6", linewidth=1, label="training: mean of the last 100 episodes")
    kept = [[row["steps"], row["sampled_mean"], row["sampled_std"]] for row in rows]
    at, mean, std = np.array(kept).T
    label = f"kept snapshots: {rows[0]['episodes']} sampled episodes, mean ± std"
    axes.errorbar(at, mean, std, fmt="o", markersize=4, elinewidth=1, color="C0", label=label)
    for name, due in stages(recipe, [int(row["steps"]) for row in rows]).items():
        height = next(row["sampled_mean"] for row in rows if row["steps"] == due)
        side = {"xytext": (-6, 6), "ha": "right"} if due > at[-1] / 2 else {"xytext": (6, -12), "ha": "left"}
        axes.annotate(name, (due, height), textcoords="offset points", fontweight="bold", **side)
    highest = max(mean + std)
    axes.set_ylim(min(mean - std) - 0.12 * highest, 1.35 * highest)  # room for the names and the legend
    axes.set(xlabel="training steps", ylabel="return", title=f"{recipe.env_id}, {recipe.algorithm}")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", frameon=False)
    partial = path.with_suffix(".partial")
    figure.savefig(partial, format="png", dpi=110)
    os.replace(partial, path)


def _simulators(recipe: Recipe, seed: int) -> Any:
    try:
        import sb3_contrib  # noqa: F401
        from stable_baselines3.common.env_util import make_vec_env
    except ImportError as error:
        raise InputError(f"training behaviour policies needs `pip install -e .[behavior]` ({error})") from error
    return make_vec_env(recipe.env_id, recipe.num_envs, seed=seed)


def _recent(model: Any, key: str) -> float:
    """Mean return ("r") or length ("l") of the last 100 training episodes; NaN before the first has ended."""
    if not model.ep_info_buffer:
        return float("nan")
    return round(float(np.mean([episode[key] for episode in model.ep_info_buffer])), 1)


def _read_curve(path: Path) -> list[list[Any]]:
    with path.open() as file:
        return list(csv.reader(file))[1:]


def _write_curve(path: Path, curve: Sequence[Sequence[Any]]) -> None:
    temporary = path.with_suffix(".partial")
    with temporary.open("w", newline="") as file:
        csv.writer(file).writerows([["steps", "mean_return", "mean_length"], *curve])
    os.replace(temporary, path)


def start(argv: Sequence[str]) -> None:
    """Run with the arguments of a command line."""
    main(parse(Args, argv))


if __name__ == "__main__":
    run(start)
