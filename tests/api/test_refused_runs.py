"""A training that cannot begin or go on is refused in one sentence, and changes nothing."""

import json

import pytest

from flowrl.errors import InputError


def contents(run):
    return {path.name: path.read_bytes() for path in run.iterdir()}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"steps": 30}, "training.steps was 20 and is 30"),
        ({"width": 32}, "agent_config.width was 16 and is 32"),
        ({"attention": "softmax"}, "agent_config.attention was 'flow' and is 'softmax'"),
        ({"learning_rate": 0.5}, "agent_config.cloning.learning_rate was 0.001 and is 0.5"),
        ({"precision": "bf16"}, "training.precision was 'fp32' and is 'bf16'"),
        ({"episodes": 4}, "evaluation.episodes was 3 and is 4"),
        ({"targets": 1}, "evaluation.targets"),
        ({"observations": "1:3"}, "selection.observations was ':' and is '1:3'"),
        ({"min_return": 2.0}, "selection.min_return was None and is 2.0"),
        ({"dataset_episodes": ":5"}, "selection.dataset_episodes was ':' and is ':5'"),
        ({"top_fraction": 0.5}, "selection.top_fraction was 1.0 and is 0.5"),
        ({"dataset": "flowrl/reach/mixed-v0+flowrl/reach/mixed-v0"}, "dataset was"),
    ],
)
def test_another_configuration_is_refused_naming_the_field(tiny_run, tiny_train, reach_dataset, options, field):
    before = contents(tiny_run)
    with pytest.raises(InputError) as caught:
        tiny_train("flow", tiny_run, **options)
    assert field in str(caught.value)
    assert "choose another folder" in str(caught.value)
    assert contents(tiny_run) == before


def test_another_agent_is_refused(tiny_run, tiny_train, reach_dataset):
    with pytest.raises(InputError, match="holds a run of agent flow"):
        tiny_train("dt", tiny_run)


def test_changed_data_are_refused_in_one_readable_sentence(tiny_run, tiny_train, write, numbered_episode):
    write("flowrl/reach/mixed-v0", [numbered_episode(0, 9), numbered_episode(1, 8)])
    with pytest.raises(InputError, match="data|dataset|fingerprint") as caught:
        tiny_train("flow", tiny_run)
    assert len(str(caught.value)) < 600


def test_a_missing_dataset_leaves_no_run_folder_behind(tiny_train, tmp_path):
    with pytest.raises(InputError, match=r"flowrl/reach/mixed-v0 is not here"):
        tiny_train("flow", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [{"env": "flowrl/Reach-v9"}, {"targets": "most"}, {"top_fraction": 2.0}])
def test_a_mistake_that_needs_the_data_leaves_no_run_folder_either(tiny_train, reach_dataset, tmp_path, options):
    with pytest.raises(InputError):
        tiny_train("flow", tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_an_environment_of_other_sizes_is_refused(tiny_train, reach_dataset, tmp_path):
    with pytest.raises(
        InputError, match=r"observation of Pendulum-v1 has shape \(3,\)|action of Pendulum-v1 has shape"
    ):
        tiny_train("bc", tmp_path / "run", env="Pendulum-v1")


def test_a_dataset_that_names_no_environment_needs_one(tiny_train, write, numbered_episode, tmp_path):
    write("flowrl/reach/mixed-v0", [numbered_episode(0, 9), numbered_episode(1, 8)], env_spec=None)
    with pytest.raises(InputError, match="names no environment"):
        tiny_train("bc", tmp_path / "run")
    run = tiny_train("bc", tmp_path / "run", env="flowrl/Reach-v0")
    assert json.loads((run / "evaluations.jsonl").read_text().splitlines()[0])["env"] == "flowrl/Reach-v0"
