"""Datasets and run folders that name code: every command refuses it before it runs, and trust allows it."""

import json
import shutil
import sys

import numpy as np
import pytest

import flowrl
from flowrl.data.dataset import TrajectoryDataset
from flowrl.errors import InputError
from flowrl.inspection import inspect_dataset
from flowrl.scripts import cli, compare, evaluate, inspect, train

PLANTED = "test/planted-v0"
OWN = """
import pathlib
from flowrl.agents.bc import BCConfig
from flowrl.envs.tiny import Reach
from dataclasses import dataclass

def make(marker):
    pathlib.Path(marker).touch()
    return Reach()

@dataclass(frozen=True)
class MyConfig(BCConfig):
    "My agent."
"""


@pytest.fixture
def marker(tmp_path):
    """A file that only code which should not run would write."""
    return tmp_path / "marker"


@pytest.fixture
def plant(write, numbered_episode, minari_root):
    """Writes a dataset whose specification has these fields."""

    def plant(name=PLANTED, **fields):
        # Of Reach's observations, returns and bounds.
        path = write(name, [numbered_episode(number, 8) for number in range(4)], force=True) / "data/metadata.json"
        metadata = json.loads(path.read_text())
        spec = json.dumps(json.loads(metadata["env_spec"]) | fields)
        metadata |= {"env_spec": spec, "eval_env_spec": spec}
        path.write_text(json.dumps(metadata))
        (path.parent / "flowrl_fingerprint.json").unlink(missing_ok=True)
        return name

    return plant


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module of the user's own, with a function that makes an environment and an agent."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "planted_own.py").write_text(OWN)
    monkeypatch.syspath_prepend(folder)
    yield folder
    sys.modules.pop("planted_own", None)


def change_config(run, **fields):
    """Other entries in a run folder's configuration; those of env_spec one by one."""
    file = run / "config.json"
    config = json.loads(file.read_text())
    spec = json.dumps(json.loads(config["env_spec"]) | fields.pop("env_spec", {}))
    file.write_text(json.dumps(config | {"env_spec": spec} | fields))


def command(marker):
    """Fields of a specification that would make a file, if anything called what they name."""
    return {"id": "Planted-v0", "entry_point": "os:system", "kwargs": {"command": f"touch {marker}"}}


def test_a_planted_dataset_is_refused_by_every_command_and_leaves_nothing(plant, marker, tmp_path, tiny_argv):
    plant(**command(marker))
    before = sorted(tmp_path.iterdir())
    words = ["--agents", "bc", "--seeds", "1", "--steps", "2", "--out", str(tmp_path / "out"), "--device", "cpu"]
    for start, argv in [
        (train.start, tiny_argv("bc", tmp_path / "run", "--dataset", PLANTED)),
        (inspect.start, [PLANTED, "--out", str(tmp_path / "page")]),
        (compare.start, ["--datasets", PLANTED, *words]),
    ]:
        with pytest.raises(InputError, match="Planted-v0.*os:system.*trust"):
            start(argv)
    assert sorted(tmp_path.iterdir()) == before


def test_a_known_id_does_not_hide_another_entry_point(plant, marker, tmp_path, tiny_train):
    plant(**command(marker) | {"id": "Hopper-v5"})
    with pytest.raises(InputError, match="trust"):
        tiny_train("bc", tmp_path / "run", dataset=PLANTED)
    wrapper = {"name": "System", "entry_point": "os:system", "kwargs": {"command": f"touch {marker}"}}
    plant(additional_wrappers=[wrapper])
    with pytest.raises(InputError, match="trust"):
        tiny_train("bc", tmp_path / "run", dataset=PLANTED)
    assert not marker.exists()


def test_a_planted_dataset_can_be_trained_on_and_inspected_without_its_environment(plant, marker, tmp_path, tiny_train):
    plant(**command(marker))
    tiny_train("bc", tmp_path / "run", dataset=PLANTED, env="flowrl/Reach-v0", targets="best")
    assert inspect_dataset(PLANTED, transitions=0).statistics is not None
    assert inspect_dataset(PLANTED, env="flowrl/Reach-v0").statistics is not None
    assert not marker.exists()


def test_trust_reaches_training_study_comparison_and_evaluation(plant, own_module, marker, tmp_path, tiny_train):
    plant(id="Own-v0", entry_point="planted_own:make", kwargs={"marker": str(marker)})
    with pytest.raises(InputError, match="function.*trust"):
        tiny_train("bc", tmp_path / "run", dataset=PLANTED)
    assert not (tmp_path / "run").exists()
    run = tiny_train("bc", tmp_path / "run", dataset=PLANTED, trust=True, study=True, targets="best")
    assert marker.exists()
    marker.unlink()
    with pytest.raises(InputError, match="planted_own:make.*trust"):
        flowrl.evaluate(run, episodes=1, targets="best")
    with pytest.raises(InputError, match="planted_own:make.*trust"):
        evaluate.start([str(run), "--episodes", "1", "--targets", "best"])
    with pytest.raises(InputError, match="planted_own:make.*trust"):
        inspect_dataset(PLANTED)
    assert not marker.exists()
    evaluate.start([str(run), "--episodes", "1", "--targets", "best", "--trust", "--device", "cpu"])
    assert marker.exists()
    assert inspect_dataset(PLANTED, trust=True).alignment is not None
    flowrl.load_policy(run)  # it plays nothing


@pytest.mark.slow
def test_trust_reaches_the_processes_of_a_comparison(plant, own_module, marker, tmp_path):
    plant(id="Own-v0", entry_point="planted_own:make", kwargs={"marker": str(marker)})
    options = {"steps": 2, "width": 16, "episodes": 1, "evaluate_every": 0, "device": "cpu", "study": False}
    with pytest.raises(InputError, match="function.*trust"):
        flowrl.compare(PLANTED, ["bc"], out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    report = flowrl.compare(PLANTED, ["bc"], out=tmp_path / "out", trust=True, **options)
    assert "--trust" in " ".join(report.commands)


def test_a_planted_run_folder_is_refused(tiny_run, marker):
    change_config(tiny_run, env_spec=command(marker))
    before = {path: path.read_bytes() for path in tiny_run.iterdir() if path.is_file()}
    with pytest.raises(InputError, match="os:system.*trust"):
        flowrl.evaluate(tiny_run, episodes=1, targets="best")
    assert not marker.exists()
    assert before == {path: path.read_bytes() for path in tiny_run.iterdir() if path.is_file() and path in before}
    with pytest.raises(InputError, match="os:system.*trust"):
        flowrl.evaluate(tiny_run, episodes=1, targets="best", env_kwargs="length=3")
    rows = flowrl.evaluate(tiny_run, episodes=1, targets="best", env="flowrl/Reach-v0")
    assert len(rows) == 1
    assert not marker.exists()


def test_an_agent_of_a_run_is_ones_own_or_refused(own_module, marker, tmp_path, reach_dataset, monkeypatch):
    run = flowrl.train("planted_own:MyConfig", run_dir=tmp_path / "run", dataset=reach_dataset, steps=2, episodes=1)
    del sys.modules["planted_own"]
    flowrl.load_policy(run)
    foreign = tmp_path / "foreign"
    shutil.copytree(run, foreign)
    loud = OWN + f"pathlib.Path({str(marker)!r}).touch()\n"
    (foreign / "planted_code.py").write_text(loud)
    change_config(foreign, agent="foreign.planted_code:MyConfig")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    for play in (flowrl.load_policy, flowrl.evaluate, lambda run: evaluate.start([str(run)])):
        with pytest.raises(InputError, match="lies with the data.*trust"):
            play(foreign)
    change_config(foreign, agent="antigravity:fly")
    with pytest.raises(InputError, match="trust"):
        flowrl.load_policy(foreign)
    assert not marker.exists()
    assert "antigravity" not in sys.modules
    change_config(foreign, agent="foreign.planted_code:MyConfig")
    with pytest.raises(InputError, match="is of another agent"):  # its module was imported, its weights are another's
        flowrl.load_policy(foreign, trust=True)
    assert marker.exists()


def test_an_environment_that_the_user_names_is_taken(plant, own_module, marker, tmp_path, tiny_train):
    """A function may make it: the module that the user names has registered it."""
    (own_module / "planted_own.py").write_text(
        OWN
        + f"import gymnasium as gym\ngym.register('Own-v1', 'planted_own:make', kwargs={{'marker': {str(marker)!r}}})\n"
    )
    plant(**command(tmp_path / "other"))
    tiny_train("bc", tmp_path / "run", dataset=PLANTED, env="planted_own:Own-v1", targets="best", study=True)
    assert marker.exists()
    assert not (tmp_path / "other").exists()


def test_a_dataset_in_memory_is_checked_as_well(plant, marker, tmp_path, tiny_train):
    dataset = TrajectoryDataset.from_minari(plant(**command(marker)))
    with pytest.raises(InputError, match="trust"):
        tiny_train("bc", tmp_path / "run", dataset=dataset)
    assert not marker.exists()


ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"


def test_escapes_in_metadata_reach_neither_console_nor_page(plant, tmp_path, capsys, tiny_train, minari_root):
    plant()
    path = minari_root / PLANTED / "data/metadata.json"
    changes = {name: f"<b>{name}</b>{ESCAPES}" for name in ("dataset_id", "description", "algorithm_name", "author")}
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (path.parent / "flowrl_fingerprint.json").unlink(missing_ok=True)
    with np.errstate(all="ignore"):
        inspect.start([PLANTED, "--out", str(tmp_path / "page")])
    tiny_train("bc", tmp_path / "run", dataset=PLANTED, targets="best")
    evaluate.start([str(tmp_path / "run"), "--episodes", "2", "--targets", "best", "--out", str(tmp_path / "report")])
    captured = capsys.readouterr()
    said = captured.out + captured.err
    written = [
        tmp_path / name for name in ("page/index.html", "page/summary.json", "report/report.md", "report/report.html")
    ]
    for text in (said, *(file.read_text() for file in written)):
        assert "owned" in text
        assert not any(character in text for character in "\x1b\x07\x9b\u202e")
    for file in written[2:]:
        assert "<b>" not in file.read_text()


def test_an_error_on_the_console_shows_escapes(monkeypatch, capsys):
    def fail(argv):
        raise InputError(f"dataset {ESCAPES} is not here")

    with pytest.raises(SystemExit):
        cli.run(fail)
    assert "\\x1b]0;owned\\x07" in capsys.readouterr().err
