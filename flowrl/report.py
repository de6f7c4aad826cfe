"""A comparison of agents as a table, two pictures and a Markdown page."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from flowrl.checkpoint import RunFolder, write_atomically
from flowrl.errors import InputError
from flowrl.scores import Returns, bootstrap_interval, interquartile_mean, mean, paired_difference

BASELINE = "dt"  # the rival that differences are taken against, where it is among the agents
BOOTSTRAP_SEED = 0
FEW_SEEDS = 5  # with fewer, a bootstrap over seeds is too narrow

# Told apart by marker and dash as well as by colour, for readers without colour.
_STYLES = [("#0b5fa5", "o", "-"), ("#c4501b", "s", "--"), ("#3a7d44", "^", "-."), ("#6b4c9a", "D", ":")]


@dataclass(frozen=True)
class Comparison:
    """Finished runs on one dataset: every agent with the same training seeds, targets and environment seeds."""

    dataset: str
    agents: tuple[str, ...]
    seeds: tuple[int, ...]
    targets: tuple[float, ...]
    dataset_returns: dict[str, Any]  # percentiles (0 to 100), mean, episodes, steps
    configs: dict[str, dict[str, Any]]  # by agent, of its first seed
    evaluations: dict[tuple[str, int], list[dict[str, Any]]] = field(repr=False)  # rows by agent and seed
    metrics: dict[tuple[str, int], list[dict[str, Any]]] = field(repr=False)

    @classmethod
    def load(cls, runs: dict[tuple[str, int], RunFolder]) -> "Comparison":
        """Read finished runs, by agent and training seed.

        Raises:
            InputError: a run is unfinished, or runs differ in dataset, targets or episodes and cannot be compared.
        """
        configs = {}
        for (agent, seed), run in runs.items():
            config = run.config()
            if config is None:
                raise InputError(f"{run.path} is no run folder: it holds no config.json")
            configs[agent, seed] = config
        first = next(iter(configs.values()))
        for key, config in configs.items():
            for name in ("fingerprint", "evaluation", "env_spec"):
                # Of each part of a mixture, what follows the slash says how it was filtered.
                mine, theirs = (
                    re.sub(r"/[^+*]*", "", c[name]) if name == "fingerprint" else c[name] for c in (config, first)
                )
                if mine != theirs:
                    raise InputError(f"runs cannot be compared: {runs[key].path} differs in {name} from the first")
        evaluations = {key: run.rows("evaluations.jsonl") for key, run in runs.items()}
        due = len(first["evaluation"]["targets"]) * first["evaluation"]["episodes"]
        for key, rows in evaluations.items():
            if (found := sum(row["kind"] == "final" for row in rows)) != due:
                raise InputError(f"run {runs[key].path} has {found} final episodes of {due}: it is not finished")
        return cls(
            dataset=first["dataset"],
            agents=tuple(dict.fromkeys(agent for agent, _ in runs)),
            seeds=tuple(dict.fromkeys(seed for _, seed in runs)),
            targets=tuple(sorted(first["evaluation"]["targets"])),
            dataset_returns=first["dataset_returns"],
            configs={agent: config for (agent, _), config in reversed(configs.items())},
            evaluations=evaluations,
            metrics={key: run.rows("metrics.jsonl") for key, run in runs.items()},
        )

    @property
    def baseline(self) -> str:
        return BASELINE if BASELINE in self.agents else self.agents[0]

    def returns(self, agent: str, target: float, name: str = "return") -> Returns:
        """(seeds, episodes) of the final evaluation, in the order of their environment seeds."""

        def row_values(seed: int) -> list[float]:
            rows = [r for r in self.evaluations[agent, seed] if r["kind"] == "final" and r["target"] == target]
            return [row[name] for row in sorted(rows, key=lambda row: row["seed"])]

        return np.array([row_values(seed) for seed in self.seeds], dtype=np.float64)

    @cached_property
    def score_rows(self) -> list[dict[str, Any]]:
        """One row per target and agent: what it returned, with an interval, and its scores."""
        rows = []
        for target in self.targets:
            for agent in self.agents:
                returns = self.returns(agent, target)
                low, high = bootstrap_interval(returns, mean, np.random.default_rng(BOOTSTRAP_SEED))
                row = {
                    "target": target,
                    "agent": agent,
                    "mean": mean(returns),
                    "mean_low": low,
                    "mean_high": high,
                    "iqm": interquartile_mean(returns),
                    "std": float(returns.std()),
                    "length": mean(self.returns(agent, target, "length")),
                }
                for name in ("score_d4rl", "score_measured"):
                    scores = self.returns(agent, target, name)
                    row[name] = None if np.isnan(scores).any() else mean(scores)
                rows.append(row)
        return rows

    @cached_property
    def difference_rows(self) -> list[dict[str, Any]]:
        """One row per target and rival of the baseline: the paired difference, and its interval."""
        rows = []
        for target in self.targets:
            theirs = self.returns(self.baseline, target)
            for agent in self.agents:
                if agent == self.baseline:
                    continue
                difference, (low, high) = paired_difference(
                    self.returns(agent, target), theirs, np.random.default_rng(BOOTSTRAP_SEED)
                )
                rows.append({"target": target, "agent": agent, "difference": difference, "low": low, "high": high})
        return rows

    def cost_rows(self) -> list[dict[str, Any]]:
        """One row per agent: its training speed and the time of its final evaluation, medians over training seeds."""
        rows = []
        for agent in self.agents:
            of_agent = [self.metrics[agent, seed] for seed in self.seeds]
            speeds = [row["steps_per_second"] for rows_ in of_agent for row in rows_ if "steps_per_second" in row]
            seconds = [rows_[-1]["evaluate/seconds"] for rows_ in of_agent if "evaluate/seconds" in rows_[-1]]
            rows.append(
                {
                    "agent": agent,
                    "steps": self.configs[agent]["training"]["steps"],
                    "steps_per_second": float(np.median(speeds)),
                    "evaluation_seconds": float(np.median(seconds)) if seconds else None,
                }
            )
        return rows

    def circumstances(self) -> list[str]:
        """Versions and device of the final episodes, each combination once."""
        final = (row for rows in self.evaluations.values() for row in rows if row["kind"] == "final")
        told = (", ".join(f"{n} {v}" for n, v in row["versions"].items()) + f" on {row['device']}" for row in final)
        return list(dict.fromkeys(told))

    def summary(self) -> str:
        """The result in plain words, at the highest target: no target is picked by its outcome."""
        target = self.targets[-1]
        scores = {row["agent"]: row for row in self.score_rows if row["target"] == target}
        told = [
            f"Asked for {_number(target)}, "
            + "; ".join(
                f"{agent} returns {_number(row['mean'])} [{_number(row['mean_low'])}, {_number(row['mean_high'])}]"
                for agent, row in scores.items()
            )
            + f". The dataset's mean return is {_number(self.dataset_returns['mean'])} an episode and"
            f" {_number(self.dataset_returns['mean_by_step'])} a step (of the episode that the step is in)."
        ]
        for agent in self.agents:
            if agent == self.baseline:
                continue
            rows = [row for row in self.difference_rows if row["agent"] == agent]
            ahead = sum(row["low"] > 0 for row in rows)
            behind = sum(row["high"] < 0 for row in rows)
            told.append(
                f"Here {agent} is above {self.baseline} at {ahead} of {len(rows)} targets, below at {behind},"
                f" and the interval of the paired difference holds zero at {len(rows) - ahead - behind}."
            )
        if len(self.seeds) == 1:
            told.append(
                "One training seed: the intervals are over episodes alone and say nothing of how training varies,"
                " so they cannot rank the agents."
            )
        elif len(self.seeds) < FEW_SEEDS:
            told.append(f"{len(self.seeds)} training seeds: so few that the intervals understate how training varies.")
        return " ".join(told)


def score_table(comparison: Comparison) -> list[list[str]]:
    """The scores as text, header first."""
    table = [["target", "agent", "mean", "95 % interval", "IQM", "length", "D4RL score", "own score"]]
    for row in comparison.score_rows:
        interval = f"[{_number(row['mean_low'])}, {_number(row['mean_high'])}]"
        scores = ["-" if row[name] is None else f"{row[name]:.1f}" for name in ("score_d4rl", "score_measured")]
        figures = [_number(row["mean"]), interval, _number(row["iqm"]), f"{row['length']:,.0f}"]
        table.append([_number(row["target"]), row["agent"], *figures, *scores])
    return table


def difference_table(comparison: Comparison) -> list[list[str]]:
    """The paired differences as text, header first."""
    table = [["target", "difference", "mean", "95 % interval"]]
    for row in comparison.difference_rows:
        interval = f"[{_number(row['low'])}, {_number(row['high'])}]"
        name = f"{row['agent']} − {comparison.baseline}"
        table.append([_number(row["target"]), name, _number(row["difference"], sign=True), interval])
    return table


def dataset_table(comparison: Comparison) -> list[list[str]]:
    """The dataset's own episode returns as text, header first."""
    returns = comparison.dataset_returns
    percentiles = returns["percentiles"]
    header = ["episodes", "steps", "mean of episodes", "mean of steps", "worst", "p50", "p75", "p90", "best"]
    means = returns["mean"], returns["mean_by_step"]
    figures = [_number(value) for value in (*means, *(percentiles[p] for p in (0, 50, 75, 90, 100)))]
    return [header, [f"{returns['episodes']:,}", f"{returns['steps']:,}", *figures]]


def cost_table(comparison: Comparison) -> list[list[str]]:
    """Training speed and evaluation time as text, header first."""
    table = [["agent", "training steps", "steps/s", "final evaluation"]]
    for row in comparison.cost_rows():
        speed = f"{row['steps_per_second']:.2f}"
        seconds = "-" if row["evaluation_seconds"] is None else f"{row['evaluation_seconds']:.0f} s"
        table.append([row["agent"], f"{row['steps']:,}", speed, seconds])
    return table


def console(table: Sequence[Sequence[str]]) -> str:
    """A table in columns."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table)


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    header, *rows = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([header, "|" + "---:|" * len(table[0]), *rows])


def _number(value: float, *, sign: bool = False) -> str:
    digits = 0 if abs(value) >= 100 else 1
    return f"{value:+,.{digits}f}" if sign else f"{value:,.{digits}f}"


def write_report(comparisons: Sequence[Comparison], out: Path, commands: Sequence[str]) -> list[Path]:
    """Write `report.md`, `results.json` and two pictures a dataset under `out`; the paths of all."""
    out.mkdir(parents=True, exist_ok=True)
    made = [out / "report.md", out / "results.json"]
    pages = ["# Comparison", ""]
    results = []
    for comparison in comparisons:
        slug = re.sub(r"[^\w.+-]+", "-", comparison.dataset)  # in a link, what stands before a colon is a scheme
        curves, calibration = out / f"learning-curves-{slug}.png", out / f"return-by-target-{slug}.png"
        draw_learning_curves(comparison, curves)
        draw_return_by_target(comparison, calibration)
        made += [curves, calibration]
        pages += _page(comparison, curves, calibration)
        results.append(
            {
                "dataset": comparison.dataset,
                "dataset_returns": comparison.dataset_returns,
                "summary": comparison.summary(),
                "scores": comparison.score_rows,
                "differences": comparison.difference_rows,
                "costs": comparison.cost_rows(),
                "configs": comparison.configs,
            }
        )
    pages += ["## Commands", "", "```", *commands, "```", ""]
    write_atomically(made[0], "\n".join(pages).encode())
    write_atomically(made[1], json.dumps({"comparisons": results, "commands": list(commands)}, indent=2).encode())
    return made


def _page(comparison: Comparison, curves: Path, calibration: Path) -> list[str]:
    config = comparison.configs[comparison.agents[0]]
    evaluation = config["evaluation"]
    seeds = ", ".join(map(str, comparison.seeds))
    last_seed = evaluation["episode_seed"] + evaluation["episodes"] - 1
    return [
        f"## {comparison.dataset}",
        "",
        comparison.summary(),
        "",
        "Returns in the dataset:",
        "",
        markdown(dataset_table(comparison)),
        "",
        f"Returns of the agents, {evaluation['episodes']} episodes × {len(comparison.seeds)} seed(s) a target:",
        "",
        markdown(score_table(comparison)),
        "",
        "Paired differences (same training seed, same environment seed):",
        "",
        markdown(difference_table(comparison)),
        "",
        f"![Return by target]({calibration.name})",
        "",
        f"![Learning curves]({curves.name})",
        "",
        "Cost:",
        "",
        markdown(cost_table(comparison)),
        "",
        "Protocol: the last checkpoint is the result. Targets come from the dataset's returns or were given"
        f" by hand. Every agent plays environment seeds {evaluation['episode_seed']} to {last_seed} at every target;"
        f" training seeds {seeds}. Intervals are percentile bootstraps (2,000 resamples) over training seeds and"
        " episodes."
        " `D4RL score` is 100·(return − random)/(expert − random) with D4RL's reference returns, `own score` the same"
        " with ours for this very environment; the two are not to be mixed.",
        "",
        f"Played with: {'; '.join(comparison.circumstances())}.",
        "",
    ]


def draw_return_by_target(comparison: Comparison, path: Path) -> None:
    """Draw achieved against asked-for return, with intervals, beside what the dataset holds."""
    figure, axes = _figure("Asked and achieved", "return asked for", "return achieved (mean, 95 % interval)")
    returns = comparison.dataset_returns
    low, high = min(comparison.targets), max(comparison.targets)
    axes.plot([low, high], [low, high], color="0.6", linewidth=1, label="as asked")
    _draw_dataset_means(axes, returns)
    rows = comparison.score_rows
    for agent, (colour, marker, dash) in zip(comparison.agents, _styles(comparison), strict=True):
        mine = [row for row in rows if row["agent"] == agent]
        means = np.array([row["mean"] for row in mine])
        errors = [means - [row["mean_low"] for row in mine], [row["mean_high"] for row in mine] - means]
        style: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": dash}
        axes.errorbar(comparison.targets, means, np.abs(errors), capsize=3, label=agent, **style)
    episodes = comparison.configs[comparison.agents[0]]["evaluation"]["episodes"]
    _save(figure, axes, path, comparison, f"{episodes} episodes a point")


def draw_learning_curves(comparison: Comparison, path: Path) -> None:
    """Draw the mean return at the highest target against training steps; every training seed is a thin line."""
    target = comparison.targets[-1]
    figure, axes = _figure(f"Learning (asked for {_number(target)})", "training steps", "return achieved (mean)")
    _draw_dataset_means(axes, comparison.dataset_returns)
    for agent, (colour, marker, dash) in zip(comparison.agents, _styles(comparison), strict=True):
        curves = [_curve(comparison.evaluations[agent, seed], target) for seed in comparison.seeds]
        if len(curves) > 1:
            for curve in curves:
                axes.plot(list(curve), list(curve.values()), color=colour, linestyle=dash, linewidth=0.6, alpha=0.5)
        steps = sorted(set.intersection(*(set(curve) for curve in curves)))
        means = [np.mean([curve[step] for curve in curves]) for step in steps]
        axes.plot(steps, means, color=colour, marker=marker, linestyle=dash, label=agent)
    axes.set_xlim(left=0)
    config = comparison.configs[comparison.agents[0]]
    episodes = f"{config['evaluate_episodes']} episodes a point, {config['evaluation']['episodes']} at the last"
    _save(figure, axes, path, comparison, episodes)


def _draw_dataset_means(axes: Axes, returns: dict[str, Any]) -> None:
    for name, label, dash in (("mean", "episodes", (0, (1, 2))), ("mean_by_step", "steps", (0, (4, 2, 1, 2)))):
        axes.axhline(returns[name], color="0.45", linewidth=1, linestyle=dash, label=f"mean of the dataset's {label}")


def _curve(rows: Sequence[dict[str, Any]], target: float) -> dict[int, float]:
    rows = [row for row in rows if row["target"] == target and row["kind"] in ("training", "final")]
    return {
        step: float(np.mean([r["return"] for r in rows if r["step"] == step]))
        for step in sorted({r["step"] for r in rows})
    }


def _styles(comparison: Comparison) -> list[tuple[str, str, str]]:
    return [_STYLES[i % len(_STYLES)] for i in range(len(comparison.agents))]


def _figure(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Figure, axes: Axes, path: Path, comparison: Comparison, episodes: str) -> None:
    axes.legend(frameon=False)
    steps = comparison.configs[comparison.agents[0]]["training"]["steps"]
    seeds = "1 training seed" if len(comparison.seeds) == 1 else f"{len(comparison.seeds)} training seeds"
    figure.supxlabel(f"{comparison.dataset}, {steps:,} steps, {seeds}, {episodes}", fontsize=7, color="0.35")
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, format="png")
    partial.replace(path)
