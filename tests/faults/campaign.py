"""Kills, flipped bits, zeroed blocks and full disks, at random places by a seed: how many flowrl survives.

python tests/faults/campaign.py            # some minutes; exits with 1 if anything is wrong
python tests/faults/campaign.py --share 0.1 --seed 3 --only kills
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from children import Outcome, in_child

import flowrl
from flowrl.data.dataset import TrajectoryDataset
from flowrl.envs.collecting import collect
from flowrl.scripts import cli
from flowrl.scripts import collect as collect_script
from flowrl.training.checkpoint import checksum
from flowrl.training.loop import Stopped
from flowrl.training.run_folder import RunFolder

DATASET = "flowrl/reach/mixed-v0"
FULL = {"kills": 200, "checkpoints": 400, "datasets": 450, "disks": 15}
SIZE = {"layers": 1, "context": 5, "heads": 2, "learning_rate": 1e-3, "warmup_steps": 3}
AGENTS: dict[str, dict[str, Any]] = {
    "flow": SIZE,
    "bc": {"layers": 2, "learning_rate": 1e-3, "warmup_steps": 3},
    "td3-bc": {"layers": 2},
}
TRAINING = {"steps": 30, "width": 16, "batch_size": 16, "log_every": 3, "checkpoint_every": 5, "threads": 1}
TRAINING |= {"episodes": 2, "evaluate_every": 10, "evaluate_episodes": 1, "device": "cpu", "dataset": DATASET}


class Campaign:
    """Counts of outcomes by section; what went wrong is kept.

    Args:
        folder: empty; the campaign works in it.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.counts: dict[str, Counter[str]] = {}
        self.wrong: list[str] = []
        (folder / "datasets").mkdir()
        os.environ["MINARI_DATASETS_PATH"] = str(folder / "datasets")
        in_child(lambda: str(collect(DATASET, steps=400).path))

    def run(self, section: str, trials: int) -> None:
        """The trials of one section, each by a generator of its own."""
        counts = self.counts[section] = Counter()
        trial: Callable[[random.Random], str] = getattr(self, section)
        for number in range(trials):
            verdict = trial(random.Random(f"{self.seed} {section} {number}"))
            counts[verdict.partition(":")[0]] += 1
            if verdict.startswith("wrong"):
                self.wrong.append(f"{section} {number}: {verdict}")

    # Kills

    def kills(self, draw: random.Random) -> str:
        """Kill a training at a random moment, go on, and compare all with a training that nobody disturbed."""
        agent = draw.choice(list(AGENTS))
        reference = self.folder / "references" / agent
        if not reference.exists():
            began = time.monotonic()
            done = in_child(lambda: train(agent, reference))
            assert done.code == 0, done.said
            (reference / "seconds").write_text(str(time.monotonic() - began))
        seconds = float((reference / "seconds").read_text())
        run = self.folder / "killed"
        shutil.rmtree(run, ignore_errors=True)
        how = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        killed = in_child(lambda: train(agent, run), kill_after=draw.uniform(0.0, 1.1 * seconds), signum=how)
        if killed.code == 1 or "Traceback" in killed.said:
            return f"wrong: {last(killed)}"
        again = in_child(lambda: train(agent, run))
        if again.code != 0:
            return f"wrong: does not go on: {last(again)}"
        left = contents(run)
        differs = [name for name, value in contents(reference).items() if left[name] != value]
        return f"wrong: {agent}, {how.name}: {', '.join(differs)} differ" if differs else "bit-equal"

    # Damaged checkpoints

    def checkpoints(self, draw: random.Random) -> str:
        """Damage the newest checkpoint: it is found, and the one before is taken; or nothing has changed."""
        agent = draw.choice(list(AGENTS))
        source = self.folder / "sources" / agent
        if not source.exists():
            assert in_child(lambda: train(agent, source)).code == 0
        run = self.folder / "damaged"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(source, run)
        what = damage(run / "checkpoint.pt", draw)
        whole, done = in_child(lambda: weights(source)).answer, in_child(lambda: weights(run))
        if done.code == 0 and done.answer == whole:
            return "harmless"
        if done.refused or (done.code == 0 and "damaged" in done.said):
            return "found"
        return f"wrong: {what} of {agent}'s checkpoint: {last(done)}"

    # Damaged datasets

    def datasets(self, draw: random.Random) -> str:
        """Damage the file, the metadata or the cache of a dataset: it is found, or the same data are read."""
        root = self.folder / "copy"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self.folder / "datasets", root)
        data = root / DATASET / "data"
        if draw.random() < 0.5:
            in_child(lambda: arrays(root))  # writes the cache
        names = [file.name for file in data.iterdir() if file.suffix in (".hdf5", ".npz")] + ["metadata.json"]
        name = draw.choice(sorted(names))
        what = damage(data / name, draw)
        whole, done = in_child(lambda: arrays(self.folder / "datasets")).answer, in_child(lambda: arrays(root))
        if done.code == 0 and done.answer == whole:
            return "harmless"
        return "found" if done.refused else f"wrong: {what} of {name}: {last(done)}"

    # Full disks

    def disks(self, draw: random.Random) -> str:
        """Collect where a file may not grow beyond a random size."""
        root = self.folder / "full"
        shutil.rmtree(root, ignore_errors=True)
        size = (self.folder / "datasets" / DATASET / "data" / "main_data.hdf5").stat().st_size
        limit = round(size * draw.uniform(0.0, 1.2))
        done = in_child(lambda: collected(root), largest_file=limit)
        left = [
            str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and "namespace" not in path.name
        ]
        if done.code == 0:
            return "written" if in_child(lambda: arrays(root)).code == 0 else f"wrong: unreadable with {limit} bytes"
        if not done.refused:
            return f"wrong: with {limit} bytes: {last(done)}"
        return f"wrong: with {limit} bytes {', '.join(left)} are left" if left else "a sentence"

    def table(self) -> str:
        """The counts, a row a section."""
        rows = [f"{'section':<12} {'trials':>6}  outcomes"]
        for section, counts in self.counts.items():
            outcomes = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
            rows.append(f"{section:<12} {counts.total():>6}  {outcomes}")
        return "\n".join(rows)


def train(agent: str, run: Path) -> str:
    """Train, or go on."""
    try:
        return str(flowrl.train(agent, run_dir=run, **TRAINING, **AGENTS[agent]))
    except Stopped:
        return "stopped"


def contents(run: Path) -> dict[str, Any]:
    """What must not depend on kills: the last checkpoint, and the rows less their times."""
    folder = RunFolder(run)
    checkpoint = folder.load()
    assert checkpoint is not None
    clock = {"steps_per_second", "cpu_seconds", "eval/seconds", "memory/peak_bytes", "seconds", "minutes", "time"}
    rows = {
        name: [{key: value for key, value in row.items() if key not in clock} for row in folder.rows(name)]
        for name in ("metrics.jsonl", "evaluations.jsonl")
    }
    return {"weights": checksum(checkpoint["learner"]), "step": checkpoint["step"]} | rows


def weights(run: Path) -> str:
    """A digest of the weights that a run would be played with."""
    from flowrl.agents.loading import load_agent

    actor = load_agent(RunFolder(run), torch.device("cpu")).actor
    return checksum({name: value for name, value in actor.state_dict().items()})


def arrays(root: Path) -> list[str]:
    """What training would read of the dataset below `root`."""
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    data = TrajectoryDataset.from_minari(DATASET)
    tensors = {name: value for name, value in vars(data).items() if isinstance(value, torch.Tensor)}
    return [checksum(tensors), str(data.env_spec), data.fingerprint, str(data.discrete_start)]


def collected(root: Path) -> None:
    """`flowrl collect`, as from the command line."""
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    sys.argv = ["flowrl collect", DATASET, "--steps", "400"]
    cli.run(collect_script.start)


def damage(file: Path, draw: random.Random) -> str:
    """Flip a bit or zero a block of a file in place, its times kept, and say which."""
    stat, content = file.stat(), bytearray(file.read_bytes())
    at = draw.randrange(len(content))
    if draw.random() < 0.5:
        bit = draw.randrange(8)
        content[at] ^= 1 << bit
        what = f"bit {bit} of byte {at}"
    else:
        length = draw.choice([1, 16, 512, 4096])
        content[at : at + length] = bytes(len(content[at : at + length]))
        what = f"{length} bytes from {at} zeroed"
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return what


def last(outcome: Outcome) -> str:
    """How a child ended, and its last words."""
    ended = f"signal {outcome.signum}" if outcome.signum else f"exit {outcome.code}"
    return f"{ended}: {(outcome.said.strip().splitlines() or ['-'])[-1][:200]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the full number of trials")
    parser.add_argument("--only", nargs="*", choices=list(FULL), default=list(FULL))
    words = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), words.seed)
        for section in words.only:
            began = time.monotonic()
            campaign.run(section, max(1, round(FULL[section] * words.share)))
            print(f"{section}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    print(campaign.table())
    print("\n".join(campaign.wrong), end="\n" if campaign.wrong else "")
    return 1 if campaign.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
