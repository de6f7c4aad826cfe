"""Videos of an episode: what they need, and what is said where it is missing."""

import json
import sys

import pytest
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv

import flowrl
from flowrl.errors import InputError


def rows(run):
    return [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]


def test_an_environment_without_a_picture_says_so(tiny_run, tmp_path):
    with pytest.raises(InputError, match=r"no video: flowrl/Reach-v0 has no picture to render"):
        flowrl.evaluate(tiny_run, episodes=1, video=tmp_path / "x.gif", device="cpu")
    assert not (tmp_path / "x.gif").exists()


@pytest.mark.parametrize("name", ["x.avi", "x", "gif"])
def test_another_kind_of_file_is_refused(tiny_run, tmp_path, name):
    with pytest.raises(InputError, match="must end in .gif or .mp4"):
        flowrl.evaluate(tiny_run, video=tmp_path / name, device="cpu")


def test_mp4_without_an_encoder_says_how_to_get_one(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(InputError, match="an .mp4 needs ffmpeg"):
        flowrl.evaluate(tiny_run, video=tmp_path / "x.mp4", device="cpu")


@pytest.mark.parametrize(
    "error",
    [
        ImportError("Cannot initialize a EGL device display.\nmore"),
        AttributeError("'NoneType' object has no attribute 'eglQueryString'"),
        NotImplementedError(),
    ],
)
def test_without_a_gl_library_the_message_says_what_to_install(pendulum_run, tmp_path, monkeypatch, error):
    def render(self):
        raise error

    monkeypatch.setattr(InvertedPendulumEnv, "render", render)
    before = rows(pendulum_run)
    with pytest.raises(InputError, match=r"no video: .*renderer does not start.*apt install libegl1 libgl1") as caught:
        flowrl.evaluate(pendulum_run, episodes=1, video=tmp_path / "x.gif", device="cpu")
    assert "\n" not in str(caught.value)
    assert type(error).__name__ in str(caught.value)
    assert not list(tmp_path.glob("*x*gif"))
    assert rows(pendulum_run) == before
