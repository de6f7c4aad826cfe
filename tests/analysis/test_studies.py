"""flowrl.analysis.studies: every figure of a study against one made by hand, and when it is made anew."""

import json
import math
import shutil
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from flowrl.agents import BCConfig, SequenceConfig, load_agent
from flowrl.analysis import studies
from flowrl.analysis.recording import Recorder, Recording
from flowrl.analysis.studies import attention_series, sensitivity, spread, study
from flowrl.data.minari_store import Episode
from flowrl.errors import InputError
from flowrl.evaluation.environments import make_vector_env
from flowrl.evaluation.rollout import rollout
from flowrl.nn.normaliser import Normaliser
from flowrl.report.maps import KINDS as TOKENS
from flowrl.scripts import train
from flowrl.training.run_folder import RunFolder

CPU = torch.device("cpu")
CONTEXT = 5  # of the tiny runs


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


# A run's study


def test_every_agent_is_studied(any_tiny_run):
    run, name = RunFolder(any_tiny_run), any_tiny_run.name
    made = study(run, CPU)
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
    assert [row["target"] for row in made["episodes"]] == sorted(row["target"] for row in final)
    for row, due in zip(made["episodes"], sorted(final, key=lambda row: row["target"]), strict=True):
        assert row.keys() < due.keys()
        assert row["return"] == pytest.approx(due["return"], rel=1e-5)
        assert (row["length"], row["terminated"], row["seed"]) == (due["length"], due["terminated"], due["seed"])

    found = made["sensitivity"]
    assert found["targets"] == sorted({made["worst"], *(row["target"] for row in made["episodes"])})
    assert found["states"] == sum(row["length"] for row in made["episodes"])
    assert found["change"][-1] == 0
    assert found["worst_to_best"] == found["change"][0]
    assert found["looks_at_return"] is (name != "bc")
    if name == "bc":
        assert found["change"] == [0, 0, 0]
        assert made["maps"] is None
    else:
        assert found["change"][0] > found["change"][1] > 0
        assert made["maps"]["steps"] == list(range(made["episodes"][-1]["length"]))


def test_a_study_is_made_once_and_the_same_every_time(tiny_run, monkeypatch):
    made = study(RunFolder(tiny_run), CPU)
    content = (tiny_run / "study.json").read_bytes()
    (tiny_run / "study.json").unlink()
    assert study(RunFolder(tiny_run), CPU) == made
    assert (tiny_run / "study.json").read_bytes() == content

    monkeypatch.setattr(studies, "rollout", lambda *_: pytest.fail("it is there already"))
    assert study(RunFolder(tiny_run), CPU) == made
    assert not list(tiny_run.glob("*.partial"))


def test_it_leaves_torchs_generator_and_the_run_alone(tiny_run):
    before = {path.name: path.read_bytes() for path in tiny_run.iterdir()}
    state = torch.get_rng_state()
    study(RunFolder(tiny_run), CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: (tiny_run / name).read_bytes() for name in before} == before
    assert {path.name for path in tiny_run.iterdir()} == {*before, "study.json"}


def other_weights(run):
    checkpoint = RunFolder(run).load()
    for tensor in checkpoint["agent"].values():
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
    before = study(RunFolder(tiny_run), CPU)
    change(tiny_run)
    after = study(RunFolder(tiny_run), CPU)
    assert (after == before) is (change is cut_short)
    assert json.loads((tiny_run / "study.json").read_text()) == after


def test_the_best_return_is_played_also_where_the_evaluation_did_not_ask_for_it(tiny_run):
    play_instead(tiny_run, targets=[3.0, 7.0])
    made = study(RunFolder(tiny_run), CPU)
    assert [row["target"] for row in made["episodes"]] == [3.0, 7.0, made["best"]]


def test_a_recurrent_run_is_studied_over_its_whole_past(reach_dataset, tiny_argv, tmp_path):
    train.start(tiny_argv("flow", tmp_path / "recurrent", "--rollout", "recurrent", "--steps", "2"))
    made = study(RunFolder(tmp_path / "recurrent"), CPU)
    assert made["rollout"] == "recurrent"
    assert made["maps"]["tokens"] == [3 * step + 2 for step in made["maps"]["steps"]]


# Bad input


def test_what_is_not_finished_is_refused(tiny_run, tmp_path):
    with pytest.raises(InputError, match=r"nowhere is no run folder: it holds no config.json"):
        study(RunFolder(tmp_path / "nowhere"), CPU)
    rows = (tiny_run / "evaluations.jsonl").read_text().splitlines(keepends=True)
    (tiny_run / "evaluations.jsonl").write_text("".join(rows[:-1]))
    with pytest.raises(InputError, match=r"run .*flow is not finished: it can be studied after its final evaluation"):
        study(RunFolder(tiny_run), CPU)
    (tiny_run / "evaluations.jsonl").write_text("".join(rows))
    (tiny_run / "checkpoint.pt").rename(tiny_run / "gone")
    with pytest.raises(
        InputError, match="has no checkpoint.pt any more, and only that can be studied: --no-study does"
    ):
        study(RunFolder(tiny_run), CPU)
    assert not (tiny_run / "study.json").exists()


def test_a_configuration_of_another_version_is_refused(tiny_run):
    edit(tiny_run / "config.json", lambda config: config.pop("dataset_returns"))
    with pytest.raises(InputError, match=r"config.json is of another version of flowrl: no 'dataset_returns'"):
        study(RunFolder(tiny_run), CPU)


def test_a_run_in_use_is_left_alone_unless_its_study_is_there(tiny_run):
    with RunFolder(tiny_run).locked(), pytest.raises(InputError, match="in use by another process"):
        study(RunFolder(tiny_run), CPU)
    made = study(RunFolder(tiny_run), CPU)
    with RunFolder(tiny_run).locked():
        assert study(RunFolder(tiny_run), CPU) == made


# Sensitivity


class Linear(nn.Module):
    """Acts by the return-to-go alone: in model units of the two actions, a·R and b·R for the given slopes."""

    def __init__(self, normaliser, slopes):
        super().__init__()
        self.normaliser, self.slopes, self.kinds = normaliser, torch.tensor(slopes), TOKENS

    def forward(self, returns_to_go, observations, actions, timesteps):
        outputs = returns_to_go[..., None] * self.slopes
        if self.normaliser.discrete:
            return outputs + observations  # logits
        return self.normaliser.action_centre + self.normaliser.action_half_range * outputs


def linear(slopes, *, discrete=False):
    normaliser = Normaliser(len(slopes), len(slopes), discrete=discrete)
    normaliser.action_centre.fill_(3.0)
    normaliser.action_half_range.copy_(torch.arange(1.0, 1.0 + len(slopes)))
    agent = SequenceConfig(width=4, layers=1, heads=1, context=CONTEXT).build(normaliser)
    agent.model = Linear(normaliser, slopes)
    return agent.eval()


def recording(target, observations):
    length = len(observations)
    returns_to_go = target - torch.arange(float(length))
    return Recording(returns_to_go, torch.as_tensor(observations), torch.zeros(length, observations.shape[1]))


def test_the_sensitivity_of_a_linear_policy_is_its_slope_times_the_difference_of_targets():
    agent = linear([0.03, 0.04])
    recordings = {target: recording(target, torch.zeros(length, 2)) for target, length in ((10.0, 3), (2.0, 17))}
    found = sensitivity(agent, recordings, worst=-6.0, best=10.0)
    # Both dimensions change by slope · Δ, in half ranges: the root mean square is Δ √((0.03² + 0.04²) / 2).
    slope = math.sqrt((0.03**2 + 0.04**2) / 2)
    assert found["targets"] == [-6.0, 2.0, 10.0]
    assert found["change"] == pytest.approx([16 * slope, 8 * slope, 0], rel=1e-5)
    assert found["worst_to_best"] == found["change"][0]
    assert (found["states"], found["unit"], found["looks_at_return"]) == (20, "half the action range", True)


def test_the_sensitivity_of_choices_is_the_share_of_states_in_which_they_change():
    # The second is chosen where 0.1 R exceeds the margin m that its logit is behind. R is 10 at the first step.
    margins = torch.tensor([0.95, 0.85, 0.75, 0.05])  # against R of 10, 9, 8, 7
    observations = torch.stack([margins, torch.zeros(4)], 1)
    recordings = {10.0: recording(10.0, observations)}
    found = sensitivity(linear([0.0, 0.1], discrete=True), recordings, worst=4.0, best=10.0)
    # Asked for 4, R is 4, 3, 2, 1: only the last is still above its margin (0.1 > 0.05). At 10 all are: 1 > 0.95, ...
    assert found == {
        "looks_at_return": True,
        "states": 4,
        "unit": "share of states",
        "targets": [4.0, 10.0],
        "change": [0.75, 0.0],
        "worst_to_best": 0.75,
    }


def test_many_states_are_thinned_evenly():
    recordings = {target: recording(target, torch.zeros(700, 2)) for target in (1.0, 2.0)}
    found = sensitivity(linear([0.1, 0.1]), recordings, worst=1.0, best=2.0)
    assert found["states"] == studies.MOST_STATES
    assert found["worst_to_best"] == pytest.approx(0.1, rel=1e-5)
    assert spread(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert spread(1, 9).tolist() == [0]
    assert spread(9, 3).tolist() == [0, 4, 8]
    for length in (10, 199, 200, 201, 399, 1000):
        steps = spread(length, 200)
        assert len(steps) == len(set(steps.tolist())) == min(length, 200)
        assert (steps[0], steps[-1]) == (0, length - 1)
        assert np.ptp(np.diff(steps)) <= 1


def test_behaviour_cloning_looks_at_no_return():
    agent = BCConfig(width=4, layers=1).build(Normaliser(2, 2))
    found = sensitivity(agent, {7.0: recording(7.0, torch.zeros(3, 2))}, worst=1.0, best=7.0)
    assert (found["looks_at_return"], found["change"], found["worst_to_best"]) == (False, [0.0, 0.0], 0.0)


# Attention


@pytest.fixture(params=["flow", "dt", "flow return-observation", "dt observation"])
def watched(request, tiny_runs):
    """A tiny run's agent, the recording of an episode, and what each layer's attention read at each step of it.

    An agent of other tokens has the run's configuration and untrained weights.
    """
    name, *tokens = request.param.split()
    agent, _ = load_agent(RunFolder(tiny_runs / name), CPU)
    if tokens:
        agent = replace(agent.config, tokens=tokens[0]).build(agent.normaliser)
    agent.eval().requires_grad_(False)
    for parameter in agent.model.blocks.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(len(parameter)))
    read = [[] for _ in agent.model.blocks]
    hooks = [
        block.attention.register_forward_pre_hook(lambda _, args, mine=mine: mine.append(args[0]))
        for block, mine in zip(agent.model.blocks, read, strict=True)
    ]
    recorder, envs = Recorder(agent), make_vector_env("flowrl/Reach-v0", 1)
    rollout(recorder, envs, [14.0], [3])
    envs.close()
    for hook in hooks:
        hook.remove()
    return agent, recorder.recordings()[0], read


def test_the_series_are_of_what_the_agent_read_when_it_acted(watched):
    agent, recording, read = watched
    found = attention_series(agent, recording)
    length = len(recording.actions)
    assert length > CONTEXT
    assert found["attention"] == agent.config.attention
    assert found["steps"] == list(range(length))
    assert found["tokens"] == [x.shape[1] for x in read[0]]
    kinds = agent.model.kinds
    for layer, block in enumerate(agent.model.blocks):
        for step, x in enumerate(read[layer]):
            rows = block.attention.weights(x)[0, :, -1].double()
            for head, row in enumerate(rows):
                p = row / row.sum()
                at = (layer, head, step)

                def figure(name, series=found, at=at):
                    return series[name][at[0]][at[1]][at[2]]

                assert figure("gain") == pytest.approx(float(row.sum()), rel=1e-4)
                assert figure("attended") == pytest.approx(math.exp(-float((p * p.log()).sum())), rel=1e-4)
                for place, kind in enumerate(kinds):
                    due = float(p[place :: len(kinds)].sum())
                    assert figure(kind, found["share"]) == pytest.approx(due, rel=1e-4, abs=1e-6)
                assert sum(figure(kind, found["share"]) for kind in kinds) == pytest.approx(1, rel=1e-4)
                assert 1 <= figure("attended") <= len(row) + 1e-3
                if found["flows"] is not None:
                    flows = block.attention.flows(x)
                    for name in ("incoming", "competition", "allocation"):
                        due = float(getattr(flows, name)[0, head, -1])
                        assert figure(name, found["flows"]) == pytest.approx(due, rel=1e-4)
    if agent.config.attention == "flow":
        assert found["flows"].keys() == {"incoming", "competition", "allocation"}
    else:
        assert found["flows"] is None
        np.testing.assert_allclose(found["gain"], 1, rtol=1e-4)


def test_the_picture_is_of_a_full_window_in_the_middle(watched):
    agent, recording, read = watched
    picture = attention_series(agent, recording)["picture"]
    step = max(CONTEXT - 1, len(recording.actions) // 2)
    assert picture["step"] == step
    assert picture["tokens_before"] == 0
    first = step - CONTEXT + 1
    kinds = agent.model.kinds
    labels = [f"{kind} {t}" for t in range(first, step + 1) for kind in kinds]
    assert picture["tokens"] == (labels[:-1] if kinds[-1] == "action" else labels), "the step's own action is not read"
    for found, block, x in zip(picture["weights"], agent.model.blocks, read, strict=True):
        np.testing.assert_allclose(found, block.attention.weights(x[step])[0], atol=1.5e-5)


def test_of_a_long_past_the_last_steps_are_pictured(watched, monkeypatch):
    agent, recording, _ = watched
    whole = attention_series(agent, recording)["picture"]
    monkeypatch.setattr(studies, "PICTURE_STEPS", 2)
    few = attention_series(agent, recording)["picture"]
    kinds = agent.model.kinds
    left = 2 * len(kinds) - (kinds[-1] == "action")
    assert few["tokens_before"] == len(kinds) * (CONTEXT - 2)
    assert few["tokens"] == whole["tokens"][-left:]
    np.testing.assert_array_equal(few["weights"], np.array(whole["weights"])[:, :, -left:, -left:])


def test_portions_change_nothing(watched, monkeypatch):
    agent, recording, _ = watched
    whole = attention_series(agent, recording), sensitivity(agent, {14.0: recording}, 1.0, 14.0)
    monkeypatch.setattr(studies, "TOKENS_AT_ONCE", 1)
    one_by_one = attention_series(agent, recording), sensitivity(agent, {14.0: recording}, 1.0, 14.0)
    assert one_by_one[1]["change"] == pytest.approx(whole[1]["change"], rel=1e-4)
    np.testing.assert_allclose(one_by_one[0]["attended"], whole[0]["attended"], rtol=1e-4)


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
    made = study(RunFolder(lamps_run), CPU)
    assert made["sensitivity"]["unit"] == "share of states"
    assert all(0 <= change <= 1 for change in made["sensitivity"]["change"])
    assert [row["length"] for row in made["episodes"]] == [10] * len(made["episodes"])
    assert made["clip"] == {"file": "episode.gif", "frames": 10, "steps": 10, "seconds": 1.0}
    content = (lamps_run / "episode.gif").read_bytes()

    (lamps_run / "episode.gif").unlink()
    assert study(RunFolder(lamps_run), CPU) == made, "a clip that is gone is made again"
    assert (lamps_run / "episode.gif").read_bytes() == content


def test_where_nothing_can_be_rendered_the_study_says_why_and_keeps_no_older_clip(lamps_run, monkeypatch):
    study(RunFolder(lamps_run), CPU)

    def render(self):
        raise ImportError("no GL here\nat all")

    monkeypatch.setattr(Lamps, "render", render)
    other_weights(lamps_run)
    made = study(RunFolder(lamps_run), CPU)
    assert made["clip"]["file"] is None
    assert "no GL here" in made["clip"]["reason"]
    assert not (lamps_run / "episode.gif").exists()
    assert study(RunFolder(shutil.copytree(lamps_run, lamps_run.parent / "copy")), CPU) == made
