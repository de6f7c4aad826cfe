"""scripts.compare: how agents are written on its command line, and what it prints beside the report."""

import json
import shlex
from pathlib import Path

import pytest

from flowrl.errors import InputError
from flowrl.experiments.cells import make_cells
from flowrl.scripts import compare, train

REACH = "flowrl/reach/mixed-v0"
NAME = "flowrl-reach-mixed-v0"
TINY = "--width 8 --layers 1 --context 5"


def test_an_option_of_an_agent_overrides_the_common_one():
    texts, common = ("bc", "few=bc --steps 3 --batch-size=5 --top-fraction 0.1"), "--steps 7 --top-fraction 0.5"
    agents = [compare.parse_agent(text, common.split()) for text in texts]
    plain, few = make_cells([REACH], agents, 1, Path("out"))
    assert (plain.options.training.steps, plain.options.selection.top_fraction) == (7, 0.5)
    assert (few.options.training.steps, few.options.training.batch_size) == (3, 5)
    assert few.options.selection.top_fraction == 0.1
    assert [cell.run_dir for cell in (plain, few)] == [Path("out") / NAME / f"{name}-seed0" for name in ("bc", "few")]
    assert all(train.parse_args(cell.words) == cell.options for cell in (plain, few))


@pytest.mark.parametrize(
    "option",
    ["dataset x", "env x", "seed 0", "run-dir x", "run_dir=x", "targets best", "episodes=3", "episode-seed 1",
     "device cpu", "threads 2", "no-study"],
)  # fmt: skip
def test_what_all_agents_share_is_no_option_of_one(option):
    name = option.replace("=", " ").split()[0].replace("_", "-")
    with pytest.raises(InputError, match=f"^agent x: --{name} is the same for all agents and cannot be an option of"):
        compare.parse_agent(f"x=bc --width 8 --{option}", [])


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        ("gpt", "unknown agent 'gpt': known are flow, dt, bc"),
        ("x=gpt --steps 3", "agent x: unknown agent 'gpt'"),
        ("x=bc --widht 3", "agent x: unknown option --widht; did you mean --width?"),
        ("x=bc --width 0", "agent x: width is 0"),
        ("x=bc --width", "agent x: "),
        ("x=bc 5", "agent x: unexpected argument '5'"),
        ("bc --width 16", "'bc --width 16' has options and so needs a label"),
        ("a b=bc", "'a b=bc' has options and so needs a label"),
        ("=bc", "label '' must begin with a letter"),
        ("a/b=bc", "label 'a/b'"),
        ("x=", "'x=' names no agent"),
        ("", "'' names no agent"),
        ("x=bc 'y", "cannot be read"),
        ("bc=bc --width 8", "labels: bc is given twice"),
    ],
)
def test_a_mistake_in_an_agent_is_reported_before_anything_starts(reach_dataset, tmp_path, agent, message):
    with pytest.raises(InputError) as caught:
        compare.start(["--datasets", REACH, "--agents", "bc", agent, "--out", str(tmp_path / "out")])
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_command_line(reach_dataset, tmp_path, capsys):
    command = (
        f"--datasets {REACH} --agents 'small=bc {TINY}' --steps 5"
        f" --targets best --episodes 1 --evaluate-every 0 --out {tmp_path / 'out'} --device cpu --jobs 1 --no-study"
    )
    compare.start(shlex.split(command))
    printed = capsys.readouterr().out
    assert "next:" in printed
    assert f" -m flowrl evaluate {tmp_path / 'out' / NAME / 'small-seed0'} " in printed
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert len(results["commands"]) == 2, "the whole's, and the run's"
    run = tmp_path / "out" / NAME / "small-seed0"
    assert (run / "train.log").read_text().count("python -m flowrl train bc") == 1
    assert not (run / "study.json").exists()
    with pytest.raises(InputError, match="unknown option --agent;? ?.*--agents"):
        compare.start(["--agent", "bc"])
