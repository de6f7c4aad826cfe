"""A user's own module `envs` (or `agents`, `scripts`) is found beside a checkout that has a folder of that name."""

import importlib
import json
import os
import subprocess
import sys

import pytest

from flowrl.scripts.console.own_modules import NAMES, OwnModules, prefer_own_modules


@pytest.fixture
def own(tmp_path):
    """A folder with own modules of all these names."""
    for name in NAMES:
        (tmp_path / "mine" / name).mkdir(parents=True)
        (tmp_path / "mine" / name / "__init__.py").touch()
        (tmp_path / "mine" / name / "own.py").write_text("from flowrl.envs.tiny import Reach as Mine\n")
    return tmp_path / "mine"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("order", ["checkout first", "own first"])
def test_a_users_module_comes_first(name, order, own, repository, monkeypatch):
    places = [str(repository), str(own)]
    monkeypatch.setattr(sys, "path", (places if order == "checkout first" else places[::-1]) + sys.path)
    monkeypatch.setattr(sys, "modules", {k: v for k, v in sys.modules.items() if k.partition(".")[0] != name})
    importlib.invalidate_caches()
    prefer_own_modules()
    assert importlib.import_module(f"{name}.own").__file__ == str(own / name / "own.py")


def test_the_checkouts_are_found_where_there_is_no_other(repository, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(repository)])
    assert OwnModules.find_spec("agents") is None
    assert OwnModules.find_spec("flowrl") is None
    assert OwnModules.find_spec("envs.own", ["somewhere"]) is None


def test_a_module_that_another_finder_knows_is_found(own, repository, monkeypatch):
    class Editable:
        @staticmethod
        def find_spec(name, path=None, target=None):
            return importlib.util.spec_from_file_location(name, own / name / "__init__.py")

    monkeypatch.setattr(sys, "path", [str(repository)])
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Editable])
    assert OwnModules.find_spec("envs").origin == str(own / "envs" / "__init__.py")


def test_calling_it_again_changes_nothing():
    prefer_own_modules()
    before = list(sys.meta_path)
    prefer_own_modules()
    assert sys.meta_path == before


def test_a_training_in_the_checkout_plays_a_users_own_environment(
    write, numbered_episode, own, repository, tiny_argv, tmp_path
):
    metadata = write("test/own-v0", [numbered_episode(0, 5), numbered_episode(1, 8)] * 3) / "data/metadata.json"
    stored = json.loads(metadata.read_text())
    spec = json.loads(stored["env_spec"]) | {"id": "Mine-v0", "entry_point": "envs.own:Mine"}
    metadata.write_text(json.dumps(stored | {"env_spec": json.dumps(spec), "eval_env_spec": json.dumps(spec)}))
    (metadata.parent / "flowrl_fingerprint.json").unlink(missing_ok=True)
    words = tiny_argv("bc", tmp_path / "run", "--dataset", "test/own-v0", "--steps", "2", "--vector", "async")
    done = subprocess.run(
        [sys.executable, "-m", "scripts.train", *words],
        cwd=repository, env=os.environ | {"PYTHONPATH": str(own)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run/evaluations.jsonl").read_text().splitlines()]
    assert {row["env"] for row in rows} == {"Mine-v0"}
