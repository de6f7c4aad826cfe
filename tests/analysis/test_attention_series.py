"""What is attended to over an episode, against what the actor's attention read when it acted."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from flowrl.agents import load_agent
from flowrl.analysis import attention_series as module
from flowrl.analysis import steps as portioning
from flowrl.analysis.attention_series import attention_series
from flowrl.analysis.recording import Recorder
from flowrl.analysis.sensitivity import sensitivity
from flowrl.evaluation.environments import make_vector_env
from flowrl.evaluation.rollout import rollout
from flowrl.training.config import TrainingConfig
from flowrl.training.run_folder import RunFolder

CPU = torch.device("cpu")
CONTEXT = 5  # of the tiny runs


@pytest.fixture(params=["flow", "dt", "flow return-observation", "dt observation"])
def watched(request, tiny_runs):
    """A tiny run's actor, the recording of an episode, and what each layer's attention read at each step of it.

    An actor of other tokens has the run's configuration and untrained weights.
    """
    name, *tokens = request.param.split()
    loaded = load_agent(RunFolder(tiny_runs / name), CPU)
    actor = loaded.actor
    if tokens:
        config = replace(loaded.config, tokens=tokens[0])
        actor = config.build(actor.normaliser, TrainingConfig(), CPU).actor
    actor.eval().requires_grad_(False)
    for parameter in actor.model.blocks.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(len(parameter)))
    read = [[] for _ in actor.model.blocks]
    hooks = [
        block.attention.register_forward_pre_hook(lambda _, args, mine=mine: mine.append(args[0]))
        for block, mine in zip(actor.model.blocks, read, strict=True)
    ]
    recorder, envs = Recorder(actor), make_vector_env("flowrl/Reach-v0", 1)
    rollout(recorder, envs, [14.0], [3])
    envs.close()
    for hook in hooks:
        hook.remove()
    return actor, recorder.recordings()[0], read


def test_the_series_are_of_what_the_agent_read_when_it_acted(watched):
    actor, recording, read = watched
    series = attention_series(actor, recording)
    length = len(recording.actions)
    assert length > CONTEXT
    assert series["attention"] == actor.model.config.attention
    assert series["steps"] == list(range(length))
    assert series["tokens"] == [x.shape[1] for x in read[0]]
    kinds = actor.model.kinds
    for layer, block in enumerate(actor.model.blocks):
        for step, x in enumerate(read[layer]):
            rows = block.attention.weights(x)[0, :, -1].double()
            for head, row in enumerate(rows):
                p = row / row.sum()
                at = (layer, head, step)

                def value(name, series=series, at=at):
                    return series[name][at[0]][at[1]][at[2]]

                assert value("gain") == pytest.approx(float(row.sum()), rel=1e-4)
                assert value("attended") == pytest.approx(math.exp(-float((p * p.log()).sum())), rel=1e-4)
                for place, kind in enumerate(kinds):
                    expected = float(p[place :: len(kinds)].sum())
                    assert value(kind, series["share"]) == pytest.approx(expected, rel=1e-4, abs=1e-6)
                assert sum(value(kind, series["share"]) for kind in kinds) == pytest.approx(1, rel=1e-4)
                assert 1 <= value("attended") <= len(row) + 1e-3
                if series["flows"] is not None:
                    flows = block.attention.flows(x)
                    for name in ("incoming", "competition", "allocation"):
                        expected = float(getattr(flows, name)[0, head, -1])
                        assert value(name, series["flows"]) == pytest.approx(expected, rel=1e-4)
    if actor.model.config.attention == "flow":
        assert series["flows"].keys() == {"incoming", "competition", "allocation"}
    else:
        assert series["flows"] is None
        np.testing.assert_allclose(series["gain"], 1, rtol=1e-4)


def test_the_picture_is_of_a_full_window_in_the_middle(watched):
    actor, recording, read = watched
    picture = attention_series(actor, recording)["picture"]
    step = max(CONTEXT - 1, len(recording.actions) // 2)
    assert picture["step"] == step
    assert picture["tokens_before"] == 0
    first = step - CONTEXT + 1
    kinds = actor.model.kinds
    labels = [f"{kind} {t}" for t in range(first, step + 1) for kind in kinds]
    assert picture["tokens"] == (labels[:-1] if kinds[-1] == "action" else labels), "the step's own action is not read"
    for weights, block, x in zip(picture["weights"], actor.model.blocks, read, strict=True):
        np.testing.assert_allclose(weights, block.attention.weights(x[step])[0], atol=1.5e-5)


def test_of_a_long_past_the_last_steps_are_pictured(watched, monkeypatch):
    actor, recording, _ = watched
    whole = attention_series(actor, recording)["picture"]
    monkeypatch.setattr(module, "PICTURE_STEPS", 2)
    few = attention_series(actor, recording)["picture"]
    kinds = actor.model.kinds
    left = 2 * len(kinds) - (kinds[-1] == "action")
    assert few["tokens_before"] == len(kinds) * (CONTEXT - 2)
    assert few["tokens"] == whole["tokens"][-left:]
    np.testing.assert_array_equal(few["weights"], np.array(whole["weights"])[:, :, -left:, -left:])


def test_portions_change_nothing(watched, monkeypatch):
    actor, recording, _ = watched
    whole = attention_series(actor, recording), sensitivity(actor, {14.0: recording}, 1.0, 14.0)
    monkeypatch.setattr(portioning, "TOKENS_AT_ONCE", 1)
    one_by_one = attention_series(actor, recording), sensitivity(actor, {14.0: recording}, 1.0, 14.0)
    assert one_by_one[1]["change"] == pytest.approx(whole[1]["change"], rel=1e-4)
    np.testing.assert_allclose(one_by_one[0]["attended"], whole[0]["attended"], rtol=1e-4)
