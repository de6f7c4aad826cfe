"""The pages of docs/results say what their two tables of rows say, and stay small."""

import csv
import gzip
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean

import pytest

from flowrl.evaluation.reference_scores import reference_scores

RESULTS = Path(__file__).parents[2] / "docs" / "results"
PAGES = "benchmark", "return-conditioning", "memory", "optimisation"


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, folder / "make.py", "--check"], capture_output=True, text=True)


def rows(name: str) -> list[dict[str, str]]:
    with gzip.open(RESULTS / name, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_pages_and_pictures_are_those_of_the_rows():
    ended = check(RESULTS)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("benchmark.md", "| flow | ", "| flow | 1"),
        ("scores.svg", "<!-- values ", "<!-- values 0"),
    ],
)
def test_what_is_out_of_date_is_named(tmp_path, file, old, new):
    folder = shutil.copytree(RESULTS, tmp_path / "results", ignore=shutil.ignore_patterns("__pycache__"))
    changed = (folder / file).read_text(encoding="utf-8").replace(old, new)
    (folder / file).write_text(changed, encoding="utf-8")
    ended = check(folder)
    assert ended.returncode == 1
    assert file in ended.stdout
    assert (folder / file).read_text(encoding="utf-8") == changed


def test_known_returns():
    """Hopper medium-replay, flow at the best return in the first matrix: the means of seeds 0, 1 and 2 in the log."""
    returns = defaultdict(list)
    for row in rows("episodes.csv.gz"):
        place = row["experiment"], row["dataset"], row["label"], row["target"]
        if place == ("matrix", "flowrl/hopper/medium-replay-v0", "flow", "3396.71"):
            returns[row["seed"]].append(float(row["return"]))
    assert {seed: (len(each), round(mean(each))) for seed, each in returns.items()} == {
        "0": (10, 2374),
        "1": (10, 1021),
        "2": (10, 1221),
    }


def test_scores_are_normalised_returns():
    environments = {"hopper": "Hopper-v5", "walker2d": "Walker2d-v5", "halfcheetah": "HalfCheetah-v5"}
    for row in rows("episodes.csv.gz")[::97]:
        robot = row["dataset"].split("/")[1]
        if robot in environments:
            references = reference_scores(environments[robot])
            for column, reference in (("score_d4rl", references.d4rl), ("score_measured", references.flowrl)):
                assert reference is not None
                score = 100 * (float(row["return"]) - reference.random) / (reference.expert - reference.random)
                assert float(row[column]) == pytest.approx(score, abs=0.01)


def test_every_episode_has_its_run():
    runs = {(row["experiment"], row["dataset"], row["label"], row["seed"]) for row in rows("runs.csv.gz")}
    played = {(row["experiment"], row["dataset"], row["label"], row["seed"]) for row in rows("episodes.csv.gz")}
    assert played == runs


def test_pages_and_pictures_stay_small():
    text = {name: (RESULTS / f"{name}.md").read_text(encoding="utf-8") for name in PAGES}
    assert all(len(page.splitlines()) <= 150 for page in text.values())
    shown = set(re.findall(r"!\[[^\]]+\]\(([\w-]+\.svg)\)", "\n".join(text.values())))
    pictures = {path.name: path.stat().st_size for path in RESULTS.glob("*.svg")}
    assert shown == set(pictures)
    assert max(pictures.values()) <= 60_000
    assert sum(path.stat().st_size for path in RESULTS.iterdir() if path.is_file()) < 1_300_000
