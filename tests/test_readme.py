"""The README is short, and every command and every block of Python in it runs as it stands."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_blocks import ROOT, blocks, commands

README = ROOT / "README.md"

# Commands that are not run, and why.
NOT_RUN = {
    "pip install PATH_OR_GIT_URL": "it needs a network; `make wheel` installs and uses the wheel",
    "make demo": "its commands are those of the quick start and of Hopper, see below",
    "make test": "it runs this test",
    ". .venv/bin/activate": "there is no such folder here",
    "flowrl train flow --dataset mujoco/hopper/medium-v0": "it needs a network",
    "flowrl import-d4rl hopper_medium-v2.hdf5": "it needs a file of D4RL; tests/scripts/test_import_d4rl.py makes one",
}
# Words after commands that take minutes as they stand.
SHORTENED = {
    "flowrl collect flowrl/hopper/medium-replay-v0": "--steps 1000",
    "flowrl compare --datasets flowrl/hopper/medium-replay-v0": "--steps 2 --episodes 1 --batch-size 2",
    "flowrl train iql --dataset flowrl/hopper/medium-replay-v0": "--steps 2 --episodes 1 --batch-size 2",
}


def test_it_is_short():
    lines = README.read_text().splitlines()
    assert len(lines) <= 160
    assert max(map(len, lines)) <= 400


def test_it_shows_the_commands_of_the_demo():
    makefile = re.sub(r"\\\n\s*", "", (ROOT / "Makefile").read_text())
    variables = dict(re.findall(r"^(\w+) := (.*)$", makefile, re.MULTILINE))
    demo = makefile.partition("\ndemo:")[2].partition("\n\n")[0].splitlines()[1:]
    for name, value in variables.items():
        demo = [line.replace(f"$({name})/", "").replace(f"$({name})", value) for line in demo]
    run = [shlex.join(shlex.split(line)) for line in demo if "@echo" not in line]
    shown = [command for language, text in blocks(README) if language == "bash" for command in commands(text)]
    assert len(run) == 5
    assert [command for command in shown if command in run] == run


@pytest.mark.slow
def test_every_block_runs(tmp_path, minari_root):
    left_out, shortened = set(NOT_RUN), set(SHORTENED)
    for language, text in blocks(README):
        if language == "python":
            run([sys.executable, "-c", text], tmp_path, text)
        for command in commands(text) if language == "bash" else ():
            if command in NOT_RUN:
                left_out.discard(command)
                continue
            words = shlex.split(command)
            assert words[0] == "flowrl", f"no test runs {command!r}"
            for start in SHORTENED:
                if command.startswith(start):
                    words += shlex.split(SHORTENED[start])
                    shortened.discard(start)
            run([sys.executable, "-m", "flowrl", *words[1:]], tmp_path, command)
    assert not left_out | shortened, "these are not in the README any more"
    assert (tmp_path / "runs/hopper/report.html").exists()


def run(words: list[str], folder: Path, what: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, f"{what}\n{ended.stdout}{ended.stderr}"
