"""A clip shows the recorded actions' episode, is small, and takes as long as the simulation does."""

import re
import sys
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from PIL import Image

from flowrl.errors import InputError
from flowrl.evaluation.missing_renderer import missing
from flowrl.evaluation.video import check_video, record_clip


class Lamp(gym.Env):
    """A white bar on a black picture of 400 × 200, at the column that the last action and the seed name together."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 1, (1,))
    action_space = gym.spaces.Discrete(4)

    def __init__(self, render_mode=None, fps=10, dtype=np.uint8):
        self.render_mode, self.dtype, self.column = render_mode, dtype, 0
        self.metadata = self.metadata | {"render_fps": fps}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.first = self.column = seed
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.column = (self.first + int(action)) % 4
        return np.zeros(1, np.float32), 0.0, False, False, {}

    def render(self):
        picture = np.zeros((200, 400, 3), self.dtype)
        picture[:, 100 * self.column : 100 * (self.column + 1)] = 255
        return picture


def spec(**keywords):
    return EnvSpec("test/Lamp-v0", entry_point=Lamp, kwargs=keywords)


def columns_shown(path):
    with Image.open(path) as picture:
        size, columns, milliseconds = picture.size, [], []
        for number in range(picture.n_frames):
            picture.seek(number)
            columns.append(int(np.asarray(picture.convert("L")).mean(0).argmax() // (size[0] // 4)))
            milliseconds.append(picture.info["duration"])
    return size, columns, milliseconds


def test_every_step_of_a_short_episode_is_shown_in_its_own_time(tmp_path):
    actions = np.array([1, 2, 3, 2, 0, 1])
    clip = record_clip(actions, spec(), 3, tmp_path / "deep/clip.gif")
    size, columns, milliseconds = columns_shown(tmp_path / "deep/clip.gif")
    assert size == (160, 80)
    assert columns == ((actions + 3) % 4).tolist()
    assert milliseconds == [100] * 6
    assert clip == (6, 6, 0.6)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["clip.gif"]


@pytest.mark.parametrize(
    ("fps", "length", "steps", "stride"),
    [(10, 500, 80, 1), (125, 1_000, 1_000, 13), (20, 1_000, 160, 2), (125, 40, 40, 4), (60, 7, 7, 2)],
)
def test_a_long_episode_is_shown_in_eighty_frames_of_its_first_eight_seconds(tmp_path, fps, length, steps, stride):
    actions = np.arange(length) % 3 + 1
    clip = record_clip(actions, spec(fps=fps), 0, tmp_path / "clip.gif")
    times = list(range(steps, 0, -stride))[::-1]
    assert clip == (len(times), steps, steps / fps)
    assert clip.frames <= 80
    _, columns, milliseconds = columns_shown(tmp_path / "clip.gif")
    # Equal frames that follow each other are one that stays longer.
    shown = [actions[t - 1] for t in times]
    assert columns == [now for number, now in enumerate(shown) if number == 0 or now != shown[number - 1]]
    assert sum(milliseconds) == 10 * round(100 * stride / fps) * clip.frames


def test_a_picture_of_another_kind_is_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(InputError, match=r"no video: .* shape \(200, 400, 3\) and type float32"):
        record_clip(np.array([1]), spec(dtype=np.float32), 0, tmp_path / "clip.gif")
    with pytest.raises(InputError, match="no video: flowrl/Reach-v0 has no picture to render"):
        record_clip(np.zeros((1, 2)), "flowrl/Reach-v0", 0, tmp_path / "clip.gif")
    assert not list(tmp_path.iterdir())


class Broken(Lamp):
    """Cannot be drawn, for the reason that the parameter gives."""

    reason: Exception

    def render(self):
        raise self.reason


@pytest.mark.parametrize(
    ("reason", "named", "not_named"),
    [
        (ModuleNotFoundError("No module named 'box2d'", name="box2d"), "pip install box2d", "apt|display"),
        (
            gym.error.DependencyNotInstalled("run `pip install pygame`"),
            "not installed.*pip install pygame",
            "apt|display",
        ),
        (RuntimeError("No available video device"), "display.*xvfb-run", "apt|pip"),
        (RuntimeError("the texture is broken\nat line 3"), "the texture is broken", "apt|pip|display|line 3"),
    ],
)
def test_the_advice_is_of_what_is_missing(tmp_path, monkeypatch, reason, named, not_named):
    monkeypatch.setattr(Broken, "reason", reason, raising=False)
    with pytest.raises(InputError, match=f"no video: .*{named}") as caught:
        record_clip(np.array([1]), EnvSpec("test/Broken-v0", entry_point=Broken), 0, tmp_path / "clip.gif")
    assert not re.search(not_named, str(caught.value))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("renderer", "named"),
    [("egl", "libegl1"), ("osmesa", "libosmesa6"), ("glfw", "display"), ("x", "'x': known are egl")],
)
def test_the_advice_is_for_the_renderer_that_was_chosen(monkeypatch, renderer, named):
    monkeypatch.setenv("MUJOCO_GL", renderer)
    error = AttributeError("'NoneType' object has no attribute 'glGetError'")
    assert named in missing(error, mujoco=True)


def test_an_encoder_without_its_program_is_named(monkeypatch, tmp_path):
    def absent():
        raise RuntimeError("No ffmpeg exe could be found.\nInstall it.")

    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", SimpleNamespace(get_ffmpeg_exe=absent))
    with pytest.raises(InputError, match="No ffmpeg exe could be found.*gif"):
        check_video(tmp_path / "x.mp4")
