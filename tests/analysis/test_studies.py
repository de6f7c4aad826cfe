"""The study of a run: what it holds, when it is stored, and when the run is studied again."""

import json
import math
import shutil

import gymnasium as gym
import numpy as np
import pytest
import torch

from flowrl.analysis import studies
from flowrl.api.training import study_run
from flowrl.data.minari_store import Episode
from flowrl.errors import InputError
from flowrl.scripts import train
from flowrl.training.run_folder import RunFolder


def study(run_dir):
    return study_run(run_dir, "cpu")


def leaves(value):
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from leaves(part)
    else:
        yield value


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_every_agent_is_studied(any_tiny_run):
    run, name = RunFolder(any_tiny_run), any_tiny_run.name
    made = study(any_tiny_run)
    config = run.config()
    percentiles = config["dataset_returns"]["percentiles"]
    assert (made["agent"], made["env"], made["key"]["step"]) == (name, "flowrl/Reach-v0", 20)
    assert made["rollout"] == ("memoryless" if name == "bc" else "window")
    assert (made["worst"], made["best"]) == (percentiles[0], percentiles[-1])
    assert made["clip"]["file"] is None
    assert "flowrl/Reach-v0 has no picture" in made["clip"]["reason"]
    assert all(not isinstance(leaf, float) or math.isfinite(leaf) for leaf in leaves(made))
    assert (any_tiny_run / "study.json").stat().st_size < 500_000

    final = [row for row in run.rows("evaluations.jsonl") if row["seed"] == config["evaluation"]["episode_seed"]]
    assert [row["target"] for row in made["episodes"]] == sorted(config["evaluation"]["targets"])
    for row in made["episodes"]:
        (played,) = (other for other in final if other["target"] in (row["target"], None))
        assert row.keys() < played.keys()
        assert row["return"] == pytest.approx(played["return"], rel=1e-5)
        assert all(row[field] == played[field] for field in ("length", "terminated", "seed"))

    sensitivity = made["sensitivity"]
    assert sensitivity["targets"] == sorted({made["worst"], *(row["target"] for row in made["episodes"])})
    assert sensitivity["states"] == sum(row["length"] for row in made["episodes"])
    assert sensitivity["change"][-1] == 0
    assert sensitivity["worst_to_best"] == sensitivity["change"][0]
    assert sensitivity["looks_at_return"] is (name != "bc")
    if name == "bc":
        assert sensitivity["change"] == [0, 0, 0]
        assert made["maps"] is None
    else:
        assert sensitivity["change"][0] > sensitivity["change"][1] > 0
        assert made["maps"]["steps"] == list(range(made["episodes"][-1]["length"]))


def test_a_study_is_made_once_and_the_same_every_time(tiny_run, monkeypatch):
    made = study(tiny_run)
    content = (tiny_run / "study.json").read_bytes()
    (tiny_run / "study.json").unlink()
    assert study(tiny_run) == made
    assert (tiny_run / "study.json").read_bytes() == content

    monkeypatch.setattr(studies, "rollout", lambda *_: pytest.fail("it is there already"))
    assert study(tiny_run) == made
    assert not list(tiny_run.glob("*.partial"))


def test_it_leaves_torchs_generator_and_the_run_alone(tiny_run):
    before = {path.name: path.read_bytes() for path in tiny_run.iterdir()}
    state = torch.get_rng_state()
    study(tiny_run)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: (tiny_run / name).read_bytes() for name in before} == before
    assert {path.name for path in tiny_run.iterdir()} == {*before, "study.json"}


def other_weights(run):
    checkpoint = RunFolder(run).load()
    for tensor in checkpoint["learner"]["actor"].values():
        tensor += 0.01
    RunFolder(run).save(checkpoint)


def play_instead(run, **evaluation):
    """As if the run had been evaluated otherwise."""
    edit(run / "config.json", lambda config: config["evaluation"].update(evaluation))
    config, folder = json.loads((run / "config.json").read_text()), RunFolder(run)
    row = next(row for row in folder.rows("evaluations.jsonl") if row["kind"] == "final")
    (run / "evaluations.jsonl").unlink()
    first = config["evaluation"]["episode_seed"]
    seeds = range(first, first + config["evaluation"]["episodes"])
    rows = [row | {"target": target, "seed": seed} for target in config["evaluation"]["targets"] for seed in seeds]
    folder.append("evaluations.jsonl", rows)


def another_target(run):
    play_instead(run, targets=[3.0, *json.loads((run / "config.json").read_text())["evaluation"]["targets"][1:]])


def another_seed(run):
    play_instead(run, episode_seed=5)


def cut_short(run):
    file = run / "study.json"
    file.write_text(file.read_text()[:1000])


@pytest.mark.parametrize("change", [other_weights, another_target, another_seed, cut_short])
def test_a_stale_or_damaged_study_is_made_anew(tiny_run, change):
    before = study(tiny_run)
    change(tiny_run)
    after = study(tiny_run)
    assert (after == before) is (change is cut_short)
    assert json.loads((tiny_run / "study.json").read_text()) == after


def test_the_best_return_is_played_also_where_it_is_no_target_of_the_evaluation(tiny_run):
    play_instead(tiny_run, targets=[3.0, 7.0])
    made = study(tiny_run)
    assert [row["target"] for row in made["episodes"]] == [3.0, 7.0, made["best"]]


def test_a_recurrent_run_is_studied_over_its_whole_past(reach_dataset, tiny_argv, tmp_path):
    train.start(tiny_argv("flow", tmp_path / "recurrent", "--rollout", "recurrent", "--steps", "2"))
    made = study(tmp_path / "recurrent")
    assert made["rollout"] == "recurrent"
    assert made["maps"]["tokens"] == [3 * step + 2 for step in made["maps"]["steps"]]


# Bad input


def test_what_is_not_finished_is_refused(tiny_run, tmp_path):
    with pytest.raises(InputError, match=r"nowhere is no run folder: it holds no config.json"):
        study(tmp_path / "nowhere")
    rows = (tiny_run / "evaluations.jsonl").read_text().splitlines(keepends=True)
    (tiny_run / "evaluations.jsonl").write_text("".join(rows[:-1]))
    with pytest.raises(InputError, match=r"run .*flow is not finished: it can be studied after its final evaluation"):
        study(tiny_run)
    (tiny_run / "evaluations.jsonl").write_text("".join(rows))
    (tiny_run / "checkpoint.pt").rename(tiny_run / "gone")
    with pytest.raises(InputError, match="has lost its checkpoint.pt: it cannot be studied without"):
        study(tiny_run)
    assert not (tiny_run / "study.json").exists()


def test_a_configuration_of_another_version_is_refused(tiny_run):
    edit(tiny_run / "config.json", lambda config: config.pop("dataset_returns"))
    with pytest.raises(InputError, match=r"config.json is of another version of flowrl: no 'dataset_returns'"):
        study(tiny_run)


def test_a_run_in_use_is_left_alone_unless_its_study_is_there(tiny_run):
    with RunFolder(tiny_run).locked(), pytest.raises(InputError, match="in use by another process"):
        study(tiny_run)
    made = study(tiny_run)
    with RunFolder(tiny_run).locked():
        assert study(tiny_run) == made


# Choices, and a clip


class Lamps(gym.Env):
    """Two lamps, of which an action lights one; ten steps, shown as a picture without any renderer."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gym.spaces.Box(-1, 1, (3,), np.float64)
    action_space = gym.spaces.Discrete(2, start=4)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = self.lamp = 0
        return self.np_random.uniform(-1, 1, 3), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.time, self.lamp = self.time + 1, action
        return self.np_random.uniform(-1, 1, 3), 1.0, False, self.time == 10, {}

    def render(self):
        return np.full((60, 40, 3), 50 * self.lamp, np.uint8)


@pytest.fixture
def lamps_run(write, tiny_argv, tmp_path):
    gym.register("test/Lamps-v0", entry_point=f"{__name__}:Lamps")
    generator = np.random.default_rng(0)
    episodes = [
        Episode(
            generator.uniform(-1, 1, (11, 3)), generator.integers(4, 6, 10), np.full(10, paid),
            np.zeros(10, bool), np.arange(10) == 9, seed=0,
        )
        for paid in (0.5, 1.0)
    ]  # fmt: skip
    write(
        "test/lamps-v0",
        episodes,
        env_spec=gym.spec("test/Lamps-v0"),
        observation_space=Lamps.observation_space,
        action_space=Lamps.action_space,
    )
    train.start(tiny_argv("dt", tmp_path / "lamps", "--dataset", "test/lamps-v0", "--steps", "2", "--episodes", "1"))
    yield tmp_path / "lamps"
    del gym.registry["test/Lamps-v0"]


def test_choices_are_studied_and_shown(lamps_run):
    made = study(lamps_run)
    assert made["sensitivity"]["unit"] == "share of states"
    assert all(0 <= change <= 1 for change in made["sensitivity"]["change"])
    assert [row["length"] for row in made["episodes"]] == [10] * len(made["episodes"])
    assert made["clip"] == {"file": "episode.gif", "frames": 10, "steps": 10, "seconds": 1.0}
    content = (lamps_run / "episode.gif").read_bytes()

    (lamps_run / "episode.gif").unlink()
    assert study(lamps_run) == made, "a clip that is gone is made again"
    assert (lamps_run / "episode.gif").read_bytes() == content


def test_where_nothing_can_be_rendered_the_study_says_why_and_keeps_no_older_clip(lamps_run, monkeypatch):
    study(lamps_run)

    def render(self):
        raise ImportError("no GL here\nat all")

    monkeypatch.setattr(Lamps, "render", render)
    other_weights(lamps_run)
    made = study(lamps_run)
    assert made["clip"]["file"] is None
    assert "no GL here" in made["clip"]["reason"]
    assert not (lamps_run / "episode.gif").exists()
    assert study(shutil.copytree(lamps_run, lamps_run.parent / "copy")) == made
