"""The script end to end: files that stand alone, misaligned data recognised, what cannot be loaded still has a page."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from flowrl.data.minari_store import DatasetDescription, Episode, open_dataset, write_dataset
from flowrl.errors import InputError
from flowrl.scripts import collect, inspect
from flowrl.scripts.inspect import Args, main

REACH = "flowrl/reach/mixed-v0"
HOPPER = "flowrl/hopper/medium-v0"


@pytest.fixture(scope="session")
def hopper_template(tmp_path_factory):
    root = tmp_path_factory.mktemp("hopper")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        collect.main(collect.Args(HOPPER, steps=600))
    return root


def changed(dataset, change, new_id="test/changed-v0", **keywords):
    """Write the dataset again with `change(observations, actions, rewards)` of every episode, without its seeds."""
    episodes = []
    for e in dataset.iterate_episodes():
        observations, actions, rewards = change(e.observations, e.actions, e.rewards)
        terminations, truncations = e.terminations[-len(rewards) :], e.truncations[-len(rewards) :]
        episodes.append(Episode(observations, actions, rewards, terminations, truncations))
    about = {"env_spec": dataset.env_spec, "observation_space": dataset.observation_space,
             "action_space": dataset.action_space, "algorithm": "none", "description": "changed"}  # fmt: skip
    write_dataset(new_id, episodes, DatasetDescription(**(about | keywords)))
    return new_id


SHIFTED = {
    "as stored": (lambda o, a, r: (o, a, r), "aligned", ""),
    "actions one late": (lambda o, a, r: (o[1:], a[:-1], r[:-1]), "misaligned", "a[t+1] → o[t+1]"),
    "actions one early": (lambda o, a, r: (o[:-1], a[1:], r[1:]), "misaligned", "a[t−1] → o[t+1]"),
    "last observation repeated": (
        lambda o, a, r: (np.concatenate([o[:-1], o[-2:-1]]), a, r), "partly misaligned", "a repeated one",
    ),
    "rewards one late": (lambda o, a, r: (o, a, np.r_[0.0, r[:-1]]), "misaligned", "pays r[t+1]"),
    "shuffled actions": (lambda o, a, r: (o, a[::-1].copy(), r), "unclear", "no way of putting"),
}  # fmt: skip


@pytest.mark.parametrize("name", SHIFTED)
@pytest.mark.parametrize("task", ["reach", pytest.param("hopper", marks=pytest.mark.slow)])
def test_how_observations_and_actions_belong_together_is_recognised(
    name, task, reach_dataset, hopper_template, tmp_path
):
    source = open_dataset(str(hopper_template / HOPPER)) if task == "hopper" else open_dataset(reach_dataset)
    change, verdict, part = SHIFTED[name]
    found = main(Args(changed(source, change), out=tmp_path / "out", transitions=60)).alignment
    assert found.verdict == verdict, found.sentence
    assert part in found.sentence
    assert found.seeded is None
    if verdict == "aligned":
        assert found.shifts[0].maximum < 1e-6
        assert found.shifts[0].rewards["r[t]"] < 1e-6
        assert found.shifts[0].rewards["r[t-1]"] > 1e-3
        assert found.last < 1e-6
        assert not any("Alignment" in sentence for sentence in warnings_of(tmp_path / "out"))
    else:
        assert f"Alignment with the simulator: {verdict}." in warnings_of(tmp_path / "out")


def warnings_of(out):
    return json.loads((out / "summary.json").read_text())["warnings"]


def test_collected_data_are_aligned_both_ways_and_whole(reach_dataset, tmp_path, capsys):
    found = main(Args(reach_dataset, out=tmp_path / "out"))
    said = capsys.readouterr().out
    assert found.alignment.verdict == "aligned"
    assert found.alignment.seeded.maximum == 0
    assert found.alignment.seeded.diverged is None
    assert found.refused == []
    assert found.figures.non_finite == found.figures.repeated == found.figures.neither_flag == 0
    assert found.steering.verdict in ("yes", "weakly")
    assert found.references["own"] == found.references["dataset"]
    for part in ("episodes", "return, over steps", "Aligned: ", "Can returns steer it?", "summary.json"):
        assert part in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"index.html", "returns.png", "summary.json"}


def test_the_page_stands_alone_and_the_summary_is_strict(reach_dataset, tmp_path):
    evil = "</td><script src='http://evil.example/x.js'></script><img src=http://evil.example/y.png>"
    dataset_id = changed(open_dataset(reach_dataset), lambda *arrays: arrays, description=evil, author=evil)
    main(Args(dataset_id, out=tmp_path / "out"))
    page = (tmp_path / "out/index.html").read_text()
    assert re.findall(r"<(?:script|link|iframe|object)", page) == []
    sources = re.findall(r"""<[^>]*\s(?:src|href)\s*=\s*["']?([^"'>]{0,30})""", page)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "url(" not in page
    assert "@import" not in page
    assert "&lt;script src=" in page
    assert (tmp_path / "out/returns.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((tmp_path / "out/summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["metadata"]["description"] == evil
    assert summary["id"] == dataset_id


def test_where_no_state_can_be_set_the_recorded_seeds_are_played(minari_root, tmp_path):
    env = gym.make("Pendulum-v1")
    episodes = []
    generator = np.random.default_rng(0)
    for seed in range(3):
        observations, actions, rewards = [env.reset(seed=seed)[0]], [], []
        for _ in range(20):
            action = generator.uniform(-2, 2, 1).astype(np.float32)
            observation, reward, *_ = env.step(action)
            observations.append(observation)
            actions.append(action)
            rewards.append(reward)
        ends = np.arange(20) == 19
        episodes.append(Episode(np.array(observations), np.array(actions), np.array(rewards), ends & False, ends, seed))
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
    about = DatasetDescription(algorithm="uniform", description="d", env_spec=env.spec, **spaces)
    write_dataset("test/pendulum-v0", episodes, about)
    found = main(Args("test/pendulum-v0", out=tmp_path / "out")).alignment
    assert found.verdict == "aligned", found.sentence
    assert "cannot be put into" in found.sentence
    assert "(60 steps)" in found.sentence
    assert found.skipped_not_set > 0

    rolled = [replace(e, actions=np.roll(e.actions, 1, 0)) for e in episodes]
    write_dataset("test/pendulum-v0", rolled, about, force=True)
    assert main(Args("test/pendulum-v0", out=tmp_path / "out")).alignment.verdict == "misaligned"
    env.close()


class Grid(gym.Env):
    """A walk to a goal on a line of 4 cells: nested observations of several kinds, 3 actions from number 5 on."""

    observation_space = gym.spaces.Dict(
        {"seen": gym.spaces.Box(-1, 1, (2,), np.float64), "cell": gym.spaces.Discrete(4)}
    )
    action_space = gym.spaces.Discrete(3, start=5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell, self.noise = int(self.np_random.integers(4)), self.np_random.uniform(-1, 1, 2)
        return self.observe(), {}

    def step(self, action):
        assert self.action_space.contains(action), "discrete actions are played as numbers"
        self.cell = int(np.clip(self.cell + int(action) - 6, 0, 3))
        return self.observe(), float(self.cell), False, False, {}

    def observe(self):
        return {"seen": self.noise, "cell": np.int64(self.cell)}


class SettableGrid(Grid):
    def set_state_from_observation(self, observation):
        self.cell, self.noise = int(observation["cell"]), observation["seen"]
        return True


@pytest.fixture
def grids():
    ids = {"test/Grid-v0": Grid, "test/SettableGrid-v0": SettableGrid}
    for name, entry in ids.items():
        gym.register(name, entry_point=f"{entry.__module__}:{entry.__name__}", max_episode_steps=12)
    yield list(ids)
    for name in ids:
        del gym.registry[name]


def play_grid(env_id, change=lambda actions: actions, episodes=12):
    """Record random episodes as Minari's own collector does, with `change` done to the actions stored."""
    played = []
    env = gym.make(env_id, disable_env_checker=True)
    generator = np.random.default_rng(1)
    for seed in range(episodes):
        observations, rewards = [env.reset(seed=seed)[0]], []
        actions = generator.integers(5, 8, 12)
        for action in actions:
            observation, reward, *_ = env.step(action)
            observations.append(observation)
            rewards.append(reward)
        stacked = {name: np.array([o[name] for o in observations]) for name in ("seen", "cell")}
        ends = np.arange(12) == 11
        buffer = EpisodeBuffer(
            id=seed, seed=seed, observations=stacked, actions=change(actions), rewards=rewards,
            terminations=(ends & False).tolist(), truncations=ends.tolist(),
        )  # fmt: skip
        played.append(buffer)
    minari.create_dataset_from_buffers(
        "test/grid-v0", played, env=env_id, algorithm_name="random", author="a", author_email="b",
        code_permalink="c", description="a grid",
    )  # fmt: skip
    env.close()
    return "test/grid-v0"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("number", "change", "verdict"),
    [
        (0, lambda actions: actions, "aligned"),
        (0, lambda actions: np.roll(actions, 1), "misaligned"),
        (1, lambda actions: actions, "aligned"),
        (1, lambda actions: np.roll(actions, 1), "misaligned"),
    ],
)
def test_dicts_and_discrete_actions(number, change, verdict, grids, tmp_path):
    found = main(Args(play_grid(grids[number], change), out=tmp_path / "out"))
    assert found.alignment.verdict == verdict, found.alignment.sentence
    assert (found.alignment.checked > 0) == (number == 1)
    assert ("cannot be put into the state" in found.alignment.sentence) == (number == 0)
    assert [f.name for f in found.figures.observations] == [
        *(f"cell {i} (one-hot)" for i in range(4)), "seen[0]", "seen[1]",
    ]  # fmt: skip
    assert [f.name for f in found.figures.actions] == [f"action {i} (one-hot)" for i in (5, 6, 7)]
    assert sum(f.mean for f in found.figures.actions) == pytest.approx(1)
    assert found.figures.actions[0].saturated is None
    assert found.steering is not None
    page = (tmp_path / "out/index.html").read_text()
    assert "an action is one of 3 choices" in page
    assert "action 5 (one-hot)" in page


def test_no_environment_or_another_one(reach_dataset, tmp_path, write, numbered_episode):
    write("test/nowhere-v0", [numbered_episode(i, 3) for i in range(2)], env_spec=None)
    found = main(Args("test/nowhere-v0", out=tmp_path / "out"))
    assert found.alignment.sentence.startswith("Not checked: the dataset names no environment")
    found = main(Args(reach_dataset, out=tmp_path / "out", env="Hopper-v5"))
    assert "of shape (3,) in the data and of shape (11,)" in found.alignment.sentence
    assert found.references["D4RL"] is None, "another environment's references are not this one's"
    assert main(Args(reach_dataset, out=tmp_path / "out", transitions=0)).alignment is None
    for bad in ({"env": "Hoper-v5"}, {"transitions": -1}, {"seed": -1}):
        with pytest.raises(InputError):
            main(Args(reach_dataset, out=tmp_path / "out", **bad))


BROKEN = {
    "NaN": ("observations", lambda a: np.where(np.arange(len(a))[:, None] == 2, np.nan, a), "hold NaN or infinity"),
    "infinite reward": ("rewards", lambda a: np.where(np.arange(len(a)) == 1, np.inf, a), "hold NaN or infinity"),
    "T observations": ("observations", lambda a: a[:-1], "T+1 observations"),
    "narrow": ("actions", lambda a: a[:, :1], "actions have shape"),
    "empty": ("rewards", lambda a: a[:0], "has no steps"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_training_would_refuse_has_a_page_that_says_so(broken, reach_dataset, minari_root, tmp_path, capsys):
    name, change, message = BROKEN[broken]
    with h5py.File(minari_root / REACH / "data/main_data.hdf5", "r+") as file:
        array = file[f"episode_3/{name}"][()]
        del file[f"episode_3/{name}"]
        file[f"episode_3/{name}"] = change(array)
    with pytest.raises(SystemExit) as caught:
        inspect.start([reach_dataset, "--out", str(tmp_path / "out")])
    assert caught.value.code == 1
    assert "REFUSED as a whole: " in capsys.readouterr().out
    assert message in json.loads((tmp_path / "out/summary.json").read_text())["refused"][0]
    assert "REFUSED as a whole" in (tmp_path / "out/index.html").read_text()


def test_an_unsupported_space_is_refused_not_a_crash(tmp_path, write, numbered_episode):
    space = gym.spaces.Box(0, 1, (3, 1), np.float32)
    write("test/image-v0", [numbered_episode(i, 3) for i in range(2)], observation_space=space)
    found = main(Args("test/image-v0", out=tmp_path / "out"))
    assert len(found.refused) == 1
    assert not (tmp_path / "out/returns.png").exists()


def test_a_folder_and_the_default_place(reach_dataset, minari_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(Args(str(minari_root / REACH)))
    assert (tmp_path / "runs/inspect/flowrl-reach-mixed-v0/index.html").exists()


@pytest.mark.slow
def test_in_a_process_of_its_own(repository, reach_dataset, tmp_path):
    def inspect_it(*argv):
        return subprocess.run(
            [sys.executable, "-m", "flowrl.scripts.inspect", *argv, "--out", str(tmp_path / "out")],
            cwd=repository, env=dict(os.environ), capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    done = inspect_it(reach_dataset)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Can returns steer it?" in done.stdout
    done = inspect_it("flowrl/reach/nope-v0")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
