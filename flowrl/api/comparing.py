"""Comparing agents: every agent with every training seed, all on the same episodes, one report."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from flowrl.api.printing import print_comparison, print_report
from flowrl.api.training import default_options
from flowrl.data.selection import folders_of
from flowrl.errors import InputError
from flowrl.evaluation.trust import trusting
from flowrl.experiments.cells import MatrixAgent, finished_cells, make_cells
from flowrl.experiments.matrix import MatrixOptions, load_runs, report_of, run_matrix
from flowrl.experiments.options import with_options
from flowrl.report import Report, write_report
from flowrl.streams import any_encoding
from flowrl.text import one_line
from flowrl.training.run_folder import NO_ENVIRONMENT

# Options of a training that the comparison itself sets, and those that must be the same for every agent.
SET_BY_COMPARISON = ("dataset", "seed", "run_dir", "device", "threads")
SAME_FOR_ALL = (*SET_BY_COMPARISON, "env", "env_kwargs", "targets", "episodes", "episode_seed", "study", "trust")


@any_encoding()
def compare(
    datasets: str | Sequence[str],
    agents: str | Sequence[str] | Mapping[str, tuple[str, Mapping[str, Any]]] = ("flow", "dt"),
    *,
    seeds: int = 1,
    out: Path | str = MatrixOptions.out,
    **options: Any,
) -> Report:
    """Train every agent with every seed on every dataset, play all on the same episodes, and write a report.

    Finished runs under `out` are reused, and interrupted ones go on.

    Args:
        datasets: one id or several, as of `train`.
        agents: names, or ``{label: (name, options)}`` for agents with options, as in
            ``{"bc-10": ("bc", {"top_fraction": 0.1})}``.
        seeds: how many training seeds: 0, 1, ...
        out: the folder of run folders and report.
        options: fields of `MatrixOptions`, such as ``jobs=2, device="cpu"``, and options of every agent's training, as
            of `train`, such as ``steps=1000, targets=("p90", "best")``.

    Returns:
        The report, whose files are in `out`.

    Raises:
        InputError: an option cannot be used, or a run failed: then the others have finished, and their report is
            written.
    """
    names = [agents] if isinstance(agents, str) else agents
    named = names if isinstance(names, Mapping) else {name.replace(":", "-"): (name, {}) for name in names}
    placing = {field.name: options.pop(field.name) for field in fields(MatrixOptions) if field.name in options}
    _refuse(options, SET_BY_COMPARISON, "set by the comparison itself")
    matrix_agents = []
    for label, (name, of_agent) in named.items():
        _refuse(of_agent, SAME_FOR_ALL, f"the same for all agents and cannot be an option of {label}")
        default = default_options(name)
        matrix_agents.append(MatrixAgent(label, with_options(default, options | dict(of_agent)), default))
    ids = [datasets] if isinstance(datasets, str) else datasets
    matrix = with_options(MatrixOptions(), placing | {"out": Path(out)})
    return compare_agents(ids, matrix_agents, seeds, matrix)


def compare_agents(
    datasets: Sequence[str], agents: Sequence[MatrixAgent], seeds: int, matrix: MatrixOptions, command: str = ""
) -> Report:
    """As `compare`.

    Args:
        command: the command line that the report gives for the whole.
    """
    for name, value in (("datasets", datasets), ("agents", agents)):
        if not value:
            raise InputError(f"{name} is empty: it must name at least one")
    if seeds < 1:
        raise InputError(f"seeds is {seeds}: it must be at least 1")
    if any(agent.options.env == NO_ENVIRONMENT for agent in agents):
        raise InputError(
            f"env is {NO_ENVIRONMENT}: a comparison plays episodes and needs an environment; only a training alone goes"
            " without"
        )
    matrix.check()
    precisions = {agent.options.training.precision for agent in agents}
    device, checked_on = matrix.devices("auto" if "auto" in precisions else "fp32")
    count = len(dict.fromkeys(datasets)) * len(agents) * seeds
    jobs, threads = matrix.places(device, count)
    shared = {"device": matrix.device, "threads": threads}
    agents = [agent._replace(options=replace(agent.options, **shared)) for agent in agents]
    cells = make_cells(datasets, agents, seeds, matrix.out)
    trust = any(agent.options.trust for agent in agents)
    with trusting(trust, *(folder for dataset in datasets for folder in folders_of(dataset))):
        reused = finished_cells(cells, device=checked_on)
    at_once = "as many at a time as Ray has room for" if matrix.ray and not matrix.jobs else f"{jobs} at a time"
    again = f"; {len(reused)} of them are finished" if reused else ""
    print(f"{len(cells)} runs on {device}, {at_once}, {threads} CPU thread(s) each{again}", flush=True)

    failures = run_matrix(cells, reused, matrix, jobs=jobs, threads=threads, device=device)
    runs = load_runs(cells, failures)
    report, problem = None, "; no report was written, and one that is there is of earlier runs"
    if runs:
        report = report_of(cells, runs, failures, command)
        try:
            _publish(report, matrix.out)
            problem = ""
        except OSError as error:
            if not failures:
                raise
            problem += f" ({error.filename or matrix.out}: {error.strerror or error})"
    if failures:
        listed = "".join(f"\n  {cell}: {failure}" for cell, failure in failures.items())
        raise InputError(
            f"{len(failures)} of {len(cells)} runs failed{problem}; the same command tries them again:{listed}"
        )
    assert report is not None
    return report


def _refuse(options: Mapping[str, Any], names: Sequence[str], why: str) -> None:
    for name in names:
        if name in options:
            raise InputError(f"{name} is {why}")


def _publish(report: Report, out: Path) -> None:
    for comparison in report.comparisons:
        print(f"\n{one_line(comparison.dataset)}")
        print_comparison(comparison)
    print_report(report)
    files = write_report(report, out)
    print("\nwritten:")
    print("\n".join(f"  {path}" for path in files))
