"""Specifications and agents that name code: what is run, and what is refused before any of it runs."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium.envs.registration import EnvSpec, WrapperSpec

from flowrl.errors import InputError
from flowrl.evaluation.environments import make_env, make_vector_env
from flowrl.evaluation.trust import check_agent, trusting, vouch

OWN = """
import gymnasium as gym
from gymnasium.spaces import Box
from subprocess import run
from gymnasium.wrappers import RecordVideo as Filmed


class Mine(gym.Env):
    observation_space = action_space = Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}


class Doubled(gym.RewardWrapper):
    def __init__(self, env, factor=2):
        super().__init__(env)

    def reward(self, reward):
        return 2 * reward


class Anything:
    def __init__(self, file):
        open(file, "w").close()


def make(file=None):
    if file:
        open(file, "w").close()
    return Mine()


make_env = lambda file=None: make(file)
"""
MARKING = "open({marker!r}, 'w').close()\n"


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that only code which should not run would write."""
    return tmp_path / "marker"


@pytest.fixture
def search_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on Python's search path, with a module `trust_own` and a package `trust_mine`."""
    folder = tmp_path / "path"
    (folder / "trust_mine" / "inner").mkdir(parents=True)
    (folder / "trust_own.py").write_text(OWN)
    (folder / "trust_mine" / "__init__.py").write_text("from trust_mine.inner.envs import Mine as Passed\n")
    (folder / "trust_mine" / "inner" / "__init__.py").touch()
    (folder / "trust_mine" / "inner" / "envs.py").write_text(OWN)
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith("trust_"):
            del sys.modules[name]


def stored(id="Mine-v0", entry_point="trust_own:Mine", **others) -> EnvSpec:
    """As it is read from a file."""
    return EnvSpec.from_json(EnvSpec(id, entry_point=entry_point, **others).to_json())


def wrapped(entry_point: str, **kwargs) -> EnvSpec:
    """A known environment with a wrapper."""
    wrapper = WrapperSpec("Wrapper", entry_point, kwargs)
    return replace(gym.spec("flowrl/Reach-v0"), additional_wrappers=(wrapper,))


def commands(file: Path) -> list[EnvSpec]:
    """Specifications that would make a file, if anything called what they name."""
    shell, python = {"command": f"touch {file}"}, {"source": f"open({str(file)!r}, 'w')"}
    return [
        stored(entry_point="os:system", kwargs=shell),
        stored("Hopper-v5", "os:system", kwargs=shell),
        stored("flowrl/Elsewhere-v0", "os:system", kwargs=shell),
        stored(entry_point="posix:system", kwargs=shell),
        stored(entry_point="subprocess:run", kwargs={"args": ["touch", str(file)]}),
        stored(entry_point="subprocess:Popen", kwargs={"args": ["touch", str(file)]}),
        stored(entry_point="builtins:exec", kwargs=python),
        stored(entry_point="builtins:open", kwargs={"file": str(file), "mode": "w"}),
        stored(entry_point="io:FileIO", kwargs={"file": str(file), "mode": "w"}),
        stored(entry_point="pathlib:Path.touch", kwargs={"self": str(file)}),
        stored(entry_point="numpy:save", kwargs={"file": str(file), "arr": [1]}),
        stored(entry_point="torch.hub:load", kwargs={"repo_or_dir": str(file.parent), "model": "x"}),
        stored(entry_point="gymnasium:make", kwargs={"id": "antigravity:X-v0"}),
        stored(entry_point="gymnasium.envs.registration:load_env_creator", kwargs={"name": "antigravity:X"}),
        stored(entry_point="gymnasium.wrappers:RecordVideo", kwargs={"video_folder": str(file)}),
        stored(entry_point="flowrl.files:write_atomically", kwargs={"path": str(file), "content": "x"}),
        stored(entry_point="flowrl.__main__:main"),
        stored(entry_point="stable_baselines3.common.monitor:Monitor", kwargs={"filename": str(file)}),
        stored(entry_point="trust_own:make", kwargs={"file": str(file)}),
        stored(entry_point="trust_own:make_env", kwargs={"file": str(file)}),
        stored(entry_point="trust_own:run", kwargs={"args": ["touch", str(file)]}),
        stored(entry_point="trust_own:Anything", kwargs={"file": str(file)}),
        stored(entry_point="trust_own:Doubled"),
        stored(entry_point="trust_own:Mine.reset"),
        stored("trust_loud:Mine-v0", "trust_own:Mine"),
        stored(vector_entry_point="os:system"),
        stored(entry_point="lambda: __import__('os').system('true')"),
        replace(stored(), entry_point=["os", "system"]),  # JSON may hold anything
        replace(stored(), entry_point={"os": "system"}),
        wrapped("os:system", command=f"touch {file}"),
        wrapped("trust_own:make", file=str(file)),
        wrapped("trust_own:Mine"),
        wrapped("trust_own:Filmed", video_folder=str(file)),
        wrapped("gymnasium.wrappers:RecordVideo", video_folder=str(file)),
        wrapped("gymnasium.wrappers.rendering:RecordVideo", video_folder=str(file), episode_trigger=None),
        wrapped("gymnasium.wrappers.vector:RecordVideo", video_folder=str(file)),
        wrapped("stable_baselines3.common.monitor:Monitor", filename=str(file)),
        wrapped(""),
    ]


@pytest.mark.parametrize("number", range(len(commands(Path("x")))))
@pytest.mark.usefixtures("search_path")
def test_code_that_was_not_here_as_an_environment_is_refused_and_not_called(number, marker):
    spec = commands(marker)[number]
    imported = set(sys.modules)
    for make in (make_env, lambda spec: make_vector_env(spec, 2)):
        with pytest.raises(InputError, match="trust") as refused:
            make(spec)
        entries = [spec.entry_point, spec.vector_entry_point, *(w.entry_point for w in spec.additional_wrappers)]
        assert any(repr(entry) in str(refused.value) for entry in [spec.id, *entries])
        assert "\n" not in str(refused.value)
    assert not marker.exists()
    assert not {"antigravity", "trust_loud", "flowrl.__main__"} & (set(sys.modules) - imported)


@pytest.mark.usefixtures("search_path")
@pytest.mark.parametrize(
    "spec",
    [
        stored(),
        stored("Other-v7", "trust_mine.inner.envs:Mine"),
        stored("Other-v7", "trust_mine:Passed", max_episode_steps=5),
        stored("Old-v1", "gymnasium.envs.classic_control.pendulum:PendulumEnv"),
        stored("Old-v1", "flowrl.envs.tiny:Reach"),
        stored("flowrl/Reach-v0", "envs.tiny:Reach"),
        replace(gym.spec("CartPole-v1"), kwargs={"sutton_barto_reward": True}),
        wrapped("gymnasium.wrappers:ClipAction"),
        wrapped("flowrl.evaluation.environments:FlatObservation"),
        wrapped("trust_own:Doubled", factor=2),
    ],
    ids=lambda spec: f"{spec.entry_point}+{len(spec.additional_wrappers)}",
)
def test_environments_of_gymnasium_of_flowrl_and_of_ones_own_are_played(spec):
    env = make_env(EnvSpec.from_json(spec.to_json()))
    env.reset(seed=0)
    env.close()


def test_an_installed_plug_in_is_played_though_nothing_has_imported_it():
    spec = stored("Maze-v9", "gymnasium_robotics.envs.maze.point_maze:PointMazeEnv")
    pytest.importorskip("gymnasium_robotics")
    env = make_env(spec)
    env.reset(seed=0)
    env.close()


def test_a_function_that_is_registered_is_run(search_path):
    spec = stored("Made-v0", "trust_own:make")
    with pytest.raises(InputError, match="function"):
        make_env(spec)
    gym.register("Made-v0", entry_point="trust_own:make")
    try:
        make_env(spec).close()
        make_env(replace(spec, id="Other-v0")).close()
    finally:
        del gym.registry["Made-v0"]


def test_a_class_registered_as_itself_is_known_by_its_name(search_path):
    class Local(gym.Env):
        observation_space = action_space = gym.spaces.Box(-1, 1, (1,))

    Local.__qualname__, Local.__module__ = "Local", "trust_nowhere"
    spec = stored("Local-v0", "trust_nowhere:Local")
    with pytest.raises(InputError, match="No module named 'trust_nowhere'"):
        make_env(spec)
    gym.register("Local-v0", entry_point=Local)
    try:
        with pytest.raises(InputError, match="No module named 'trust_nowhere'") as by_gymnasium:
            make_env(spec)
        assert isinstance(by_gymnasium.value.__cause__, ModuleNotFoundError)
    finally:
        del gym.registry["Local-v0"]


def test_a_module_is_read_before_it_is_imported(search_path, marker):
    program = f"open({str(marker)!r}, 'w').close()\ndef main(): pass\n"
    (search_path / "trust_program.py").write_text(program)
    for name, message in (("main", "function"), ("Missing", "has no Missing")):
        with pytest.raises(InputError, match=message):
            make_env(stored(entry_point=f"trust_program:{name}"))
    (search_path / "trust_program.py").write_text(program + "def broken(:\n")
    with pytest.raises(InputError, match="cannot be read as Python"):
        make_env(stored(entry_point="trust_program:main"))
    assert not marker.exists()


@pytest.mark.parametrize("entry_point", ["trust_none:X", "trust_own.inner:X", "trust_mine.none:X", "gymnasium.none:X"])
def test_a_module_that_is_missing_is_said_to_be_and_its_package_is_not_imported(search_path, entry_point, marker):
    (search_path / "trust_mine" / "__init__.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    with pytest.raises(InputError, match=r"cannot be made here: No module named 'trust_|'gymnasium\.none"):
        make_env(stored(entry_point=entry_point))
    assert not marker.exists()


LOUD = OWN + "open({marker!r}, 'w').close()\n"


@pytest.mark.parametrize(
    ("entry_point", "where", "folder"),
    [
        ("trust_brought:Mine", "trust_brought.py", "."),  # one works in the folder that came
        ("trust_run.brought:Mine", "trust_run/brought.py", "trust_run"),  # one works beside it
        ("trust_run.brought:Mine", "trust_run/brought/__init__.py", "trust_run"),
        ("trust_run.deep-er.brought:Mine", "trust_run/deep-er/brought.py", "trust_run"),
        ("trust_archive.brought:Mine", "trust_archive/brought.py", "trust_archive/run"),  # an archive was unpacked
    ],
)
def test_code_that_came_with_the_data_is_not_ones_own(search_path, marker, entry_point, where, folder):
    file = search_path / where
    file.parent.mkdir(parents=True, exist_ok=True)
    (search_path / folder).mkdir(exist_ok=True)
    file.write_text(LOUD.replace("{marker!r}", repr(str(marker))))
    with trusting(False, search_path / folder), pytest.raises(InputError, match="lies with the data"):
        make_env(stored(entry_point=entry_point))
    with trusting(False, search_path / folder), pytest.raises(InputError, match="lies with the data"):
        check_agent(entry_point)
    assert not marker.exists()
    with trusting(True, search_path / folder):
        make_env(stored(entry_point=entry_point)).close()
    assert marker.exists()


def test_code_in_minaris_root_is_not_ones_own(search_path, minari_root, monkeypatch):
    (minari_root / "trust_brought.py").write_text(OWN)
    monkeypatch.chdir(minari_root)
    monkeypatch.syspath_prepend("")
    with pytest.raises(InputError, match="lies with the data"):
        make_env(stored(entry_point="trust_brought:Mine"))


def test_trust_allows_everything_inside_alone(search_path, marker):
    spec = stored(entry_point="trust_own:make", kwargs={"file": str(marker)})
    with trusting(True), trusting(False):  # an inner part of what the user trusts
        make_env(spec).close()
    assert marker.exists()
    with pytest.raises(InputError):
        make_env(spec)
    with trusting(False), pytest.raises(InputError):
        make_env(spec)


def test_what_the_user_names_is_taken_for_good_until_the_end_of_the_call(search_path):
    spec = stored(entry_point="trust_own:make")
    with trusting(False):
        vouch(spec)
        make_env(spec).close()
        with trusting(False):
            make_env(replace(spec, kwargs={"file": None})).close()
    with trusting(False), pytest.raises(InputError):
        make_env(spec)
    vouch(spec)
    with pytest.raises(InputError):
        make_env(spec)


def test_workers_make_what_was_checked(search_path):
    with trusting(True):
        envs = make_vector_env(stored(entry_point="trust_own:make"), 2, mode="async")
    try:
        assert envs.reset(seed=[0, 1])[0].shape == (2, 1)
    finally:
        envs.close()


@pytest.mark.parametrize("name", ["flow", "trust_own:Mine", "trust_mine.inner.envs:Mine", "flowrl.agents.bc:BCConfig"])
def test_agents_of_ones_own_may_be_loaded(search_path, name):
    check_agent(name)
    assert "trust_own" not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os:system", "belongs to Python itself.*trust"),
        ("antigravity:fly", "belongs to Python itself.*trust"),
        ("pyright.cli:entrypoint", "pyright, a package that is no plug-in.*trust"),
        ("trust_own:make", "function.*trust"),
        ("trust_own:a:b", "of the form module:Name"),
        (":", "of the form module:Name"),
        ("trust_none:Config", "No module named 'trust_none'"),
    ],
)
def test_other_agents_of_a_run_are_refused(search_path, name, message):
    with pytest.raises(InputError, match=message):
        check_agent(name)
    with trusting(True):
        check_agent(name)


def test_a_long_entry_point_is_cut(search_path):
    with pytest.raises(InputError) as refused:
        make_env(stored(entry_point="os:" + "x" * 10_000))
    assert len(str(refused.value)) < 400


def test_escapes_in_a_name_are_shown_and_not_sent():
    with pytest.raises(InputError) as refused:
        make_env(replace(stored(), entry_point="os:\x1b[2Jsystem"))
    assert "\x1b" not in str(refused.value)
    json.dumps(str(refused.value))
