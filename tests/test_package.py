"""The package is whole with links, without them (a checkout on Windows), and light to import."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def python(program: str, folder: Path) -> str:
    ended = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("left", ["nothing", "a file"])
def test_a_checkout_without_links_finds_all_rooms(tmp_path, left):
    """Git on Windows leaves a small text file where a link would be."""
    skip = shutil.ignore_patterns("__pycache__", "policies", "agents", "envs", "scripts")
    shutil.copytree(ROOT / "flowrl", tmp_path / "flowrl", ignore=skip)
    for room in ("agents", "envs", "scripts"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__", "policies"))
        if left == "a file":
            (tmp_path / "flowrl" / room).write_text(f"../{room}")
    program = "import flowrl.agents.registry, flowrl.scripts.train as t; print(t.__file__)"
    assert python(program, tmp_path).strip() == str(tmp_path / "scripts" / "train.py")


def test_importing_flowrl_brings_no_torch_and_registers_the_environments(tmp_path):
    program = "import sys, flowrl, gymnasium; print('torch' in sys.modules, 'flowrl/Reach-v0' in gymnasium.registry)"
    assert python(program, tmp_path).split() == ["False", "True"]
