"""Options as words of a command line and back, and with some of them replaced by name."""

import random
import types
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Literal, Union, get_args, get_origin, get_type_hints

import pytest

from flowrl.agents import AGENTS
from flowrl.api.training import default_options
from flowrl.attention import ATTENTION
from flowrl.errors import InputError
from flowrl.experiments.options import with_options, words_of
from flowrl.scripts import train

# What a shell passes as one word, also where it looks like an option, a number or nothing.
TEXTS = ["a/b-v0", "-20:", "--steps", "--no-study", "-h", "a b", "-5", "true", "x=1", "=", "-", "'", '"', "é", ""]
VALUES = {
    str: TEXTS,
    int: [-3, 0, 1, 2, 7, 4_000_000],
    float: [-3.25, 0.0, 1e-7, 0.1 + 0.2, 0.5, 1.0, 1e22],
    bool: [False, True],
    Path: [Path("runs/x"), Path("/tmp/a b"), Path("-x"), Path()],
    types.NoneType: [None],
}
WORDS = [(), ("best",), ("-3", "p50"), ("1e3", "-0.5", "r125"), ("length=300",), ("decay", "output_norm")]


def a_value(hint, generator):
    """Of a field's type."""
    if get_origin(hint) in (Union, types.UnionType):
        return a_value(generator.choice(get_args(hint)), generator)
    if get_origin(hint) is Literal:
        return generator.choice(get_args(hint))
    return generator.choice(WORDS if get_origin(hint) is tuple else VALUES[hint])


def changed(options, generator):
    """Options with some fields replaced, one by one, by values that their classes accept."""
    hints = get_type_hints(type(options))
    for field in generator.sample(fields(options), len(fields(options))):
        value = getattr(options, field.name)
        if is_dataclass(value):
            new = changed(value, generator)
        elif field.name == "agent" or generator.random() < 0.6:
            continue
        else:
            new = generator.choice([*ATTENTION]) if field.name == "attention" else a_value(hints[field.name], generator)
        try:
            options = replace(options, **{field.name: new})
        except ValueError:
            continue
    return options


@pytest.mark.parametrize("agent", AGENTS)
def test_the_words_of_options_give_them_back(agent):
    generator, default = random.Random(0), default_options(agent)
    for _ in range(15):
        options = changed(default, generator)
        words = words_of(options, default)
        assert words[0] == agent
        assert train.parse_args(words) == options, words


@pytest.mark.parametrize("agent", AGENTS)
def test_an_agents_name_alone_is_its_preset(agent):
    default = default_options(agent)
    assert words_of(default, default) == [agent]
    assert train.parse_args([agent]) == default


@pytest.mark.parametrize("agent", AGENTS)
def test_every_option_has_one_name(agent):
    def names(options):
        for field in fields(options):
            value = getattr(options, field.name)
            yield from names(value) if is_dataclass(value) else [field.name]

    every = list(names(default_options(agent)))
    assert len(every) == len(set(every))


def test_fields_are_replaced_by_their_flat_names():
    options = with_options(
        default_options("flow"), {"steps": 7, "width": 64, "top_fraction": 0.5, "learning_rate": 1.0}
    )
    assert (options.training.steps, options.config.width, options.selection.top_fraction) == (7, 64, 0.5)
    assert options.config.cloning.learning_rate == 1.0
    assert options == with_options(options, {})


@pytest.mark.parametrize(
    ("given", "words"),
    [("best", ("best",)), (["p50", "best"], ("p50", "best")), ([30, 2.5], ("30", "2.5")), (7, ("7",))],
)
def test_targets_can_be_written_in_many_ways(given, words):
    assert with_options(default_options("bc"), {"targets": given}).evaluation.targets == words


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 5}, "unknown option 'step'; did you mean steps?"),
        ({"heads": 5}, "unknown option 'heads'"),
        ({"training": 5}, "unknown option 'training'"),
        ({"steps": 0}, "steps is 0: it must be at least 1"),
        ({"steps": "many"}, "steps is 'many': it must be a whole number"),
    ],
)
def test_a_mistake_is_an_input_error(changes, message):
    with pytest.raises(InputError) as caught:
        with_options(default_options("bc"), changes)
    assert message in str(caught.value)
