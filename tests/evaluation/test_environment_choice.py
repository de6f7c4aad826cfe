"""Keywords for an environment as words, and spaces that must be those of the data."""

import gymnasium as gym
import pytest

from flowrl.errors import InputError
from flowrl.evaluation.agreement import check_spaces
from flowrl.evaluation.environment_choice import read_keywords


def test_the_words_of_an_environments_values():
    words = ["a=1", "b=0.5", "c=false", "d=None", "e=(0.7, 2)", "f=ant.xml", "g='two words'", "h=[1, 'x']", "i=TRUE"]
    assert read_keywords(words) == {
        "a": 1, "b": 0.5, "c": False, "d": None, "e": [0.7, 2], "f": "ant.xml", "g": "two words", "h": [1, "x"],
        "i": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["steps"], "env_kwargs steps: it must be NAME=VALUE, as in length=300"),
        (["=2"], "env_kwargs =2: it must be NAME=VALUE"),
        (["steps=0,5.x"], "'0,5.x' is no value"),
        (["steps={1}"], "is no value; write a finite number"),
        (["steps={[]: 1}"], "is no value"),
        (["steps=1e999"], "'1e999' is no value"),
        (["steps=inf"], "'inf' is no value"),
        (["steps=2", "steps=3"], "env_kwargs steps=3: steps is given twice"),
        (["render_mode=human"], "render_mode cannot be chosen here"),
    ],
)
def test_other_words_are_refused(words, message):
    with pytest.raises(InputError) as caught:
        read_keywords(words)
    assert message in str(caught.value)


class Five(gym.Env):
    """Discrete actions 5, 6 and 7."""

    observation_space = gym.spaces.Box(0, 1, (3,))
    action_space = gym.spaces.Discrete(3, start=5)


class Entries(gym.Env):
    """An observation of several entries, eight numbers in all."""

    observation_space = gym.spaces.Dict({"a": gym.spaces.Box(0, 1, (5,)), "b": gym.spaces.Discrete(3)})
    action_space = gym.spaces.Box(-1, 1, (1,))


@pytest.fixture(autouse=True)
def registered():
    for kind in (Five, Entries):
        gym.register(f"test/{kind.__name__}-v0", kind)
    yield
    for kind in (Five, Entries):
        del gym.registry[f"test/{kind.__name__}-v0"]


@pytest.mark.parametrize(
    ("env", "sizes", "message"),
    [
        ("test/Five-v0", (3, 3, 5), None),
        (
            "test/Five-v0",
            (3, 3, 0),
            "the action of test/Five-v0 is Discrete(3, start=5): the data have Discrete(3, start=0)",
        ),
        ("test/Five-v0", (3, 4, 5), "the data have Discrete(4, start=5)"),
        ("test/Five-v0", (3, 3, None), "the data have (3,)"),
        ("test/Five-v0", (4, 3, 5), "the observation of test/Five-v0 has shape (3,): the data have (4,)"),
        ("test/Entries-v0", (8, 1, None), None),
        ("test/Entries-v0", (7, 1, None), "has shape (8,): the data have (7,)"),
        ("flowrl/Reach-v0", (3, 2, None), None),
        ("flowrl/Reach-v0", (3, 2, 0), "the data have Discrete(2, start=0)"),
    ],
)
def test_an_environment_of_other_spaces_is_refused(env, sizes, message):
    if message is None:
        check_spaces(gym.spec(env), *sizes)
        return
    with pytest.raises(InputError) as caught:
        check_spaces(gym.spec(env), *sizes)
    assert message in str(caught.value)
