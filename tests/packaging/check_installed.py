"""Checks an installed flowrl, in an environment and a folder of its own: `make wheel` runs it with that Python.

It uses nothing of the checkout: the command line and the functions that the documentation shows, beside a project that
has packages called `agents` and `envs` too.
"""

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

REACH = "flowrl/reach/mixed-v0"
TINY = ["--dataset", REACH, "--steps", "20", "--batch-size", "8", "--episodes", "2", "--width", "16"]

NOTEBOOK = """
import agents, envs                    # the project's own
assert agents.MINE and envs.MINE
import flowrl
run = flowrl.train("flow", dataset="flowrl/reach/mixed-v0", steps=20, width=16, heads=2, episodes=2, run_dir="notebook")
policy = flowrl.load_policy(run)
policy.reset(14.0)
assert policy.act([3.0, -3.0, 1.0]).shape == (2,)
from flowrl import load_policy
from flowrl.attention import ATTENTION
from flowrl.agents import AGENTS
assert {"flow", "softmax"} <= ATTENTION.keys() and {"flow", "dt", "bc"} <= AGENTS.keys()
"""


def main() -> None:
    import flowrl

    site = Path(sysconfig.get_paths()["purelib"])
    installed = Path(flowrl.__file__).parent
    assert installed == site / "flowrl", f"flowrl is imported from {installed}, not from {site}"
    record = next(site.glob("flowrl-*.dist-info/RECORD")).read_text().splitlines()
    roots = {line.split(",")[0].split("/")[0] for line in record if not line.startswith("..")}
    assert roots == {"flowrl", f"flowrl-{flowrl.__version__}.dist-info"}, f"the wheel holds {sorted(roots)}"
    for name in (
        "agents/flow.py",
        "envs/tiny.py",
        "envs/policies/hopper/snapshots.json",
        "scripts/train.py",
        "py.typed",
    ):
        assert (installed / name).is_file(), f"the wheel lacks {name}"

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("agents", "envs"):
            (root / name).mkdir()
            (root / name / "__init__.py").write_text("MINE = True\n")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"MINARI_DATASETS_PATH": str(root / "data"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        command = str(Path(sys.executable).with_name("flowrl"))

        def run(*words: str) -> str:
            print("$", *("flowrl" if word == command else word for word in words), flush=True)
            ended = subprocess.run(words, cwd=root, env=environment, capture_output=True, text=True)
            assert ended.returncode == 0, ended.stdout + ended.stderr
            return ended.stdout

        run(command, "collect", REACH, "--steps", "400")
        run(command, "inspect", REACH, "--transitions", "20")
        run(command, "train", "bc", *TINY, "--run-dir", "run")
        run(command, "evaluate", "run", "--episodes", "3")
        run(
            command, "compare", "--datasets", REACH, "--agents", "b=bc --width 16", "f=flow --width 16 --heads 2",
            "--steps", "20", "--batch-size", "8", "--episodes", "2", "--evaluate-every", "0", "--out", "out",
        )  # fmt: skip
        report = json.loads((root / "out" / "results.json").read_text())
        assert {r["agent"] for r in report["comparisons"][0]["runs"]} == {"b", "f"}
        assert report["failures"] == []
        run(sys.executable, "-c", NOTEBOOK)
    print(f"flowrl {flowrl.__version__} works as installed")


if __name__ == "__main__":
    main()
