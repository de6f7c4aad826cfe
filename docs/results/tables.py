"""The tables of the pages, each a function of the rows; a cell is a value with its 95 % interval."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from rows import (
    CELLS,
    EXPERT,
    JUDGED,
    NINE,
    REPLAY,
    RUNS,
    TARGETS,
    UNTARGETED,
    Sample,
    cell,
    difference,
    followed,
    generator,
    mean,
    name,
    returns,
)

from flowrl.evaluation import statistics
from flowrl.text import DASH, number

Table = list[list[str]]  # rows of cells, the header first

BOTH = "flow", "dt"
AGENTS = {
    "flow": "flow",
    "dt": "dt",
    "bc": "bc",
    "bc-10": "10 % BC",
    "flow-norm-decay": "flow, output norm and decay",
}
VALUE_AGENTS = "rebrac", "iql", "awac", "td3-bc"
VALUES = {**{name: name for name in VALUE_AGENTS}, "bc-10": "10 % BC", "flow": "flow"}
LENGTHS = "10", "100", "300", "1000"  # of corridors


def scores() -> Table:
    """Interquartile means over the nine datasets with both references, and the comparison with dt."""
    rows = [["", "IQM, flowrl references", "IQM, D4RL references", "mean", "− dt, paired", "P(better than dt)"]]
    for label, title in AGENTS.items():
        measured, d4rl = (
            statistics.aggregate([returns(d, Sample(label, column=column)) for d in NINE], generator())
            for column in ("score_measured", "score_d4rl")
        )
        beside = [DASH, DASH]
        if label != "dt":
            ours, theirs = ([returns(d, Sample(x, column="score_measured")) for d in NINE] for x in (label, "dt"))
            better = statistics.probability_of_improvement(ours, theirs, generator())
            beside = [cell(statistics.aggregate_difference(ours, theirs, generator()), sign=True), cell(better)]
        rows.append([title, cell(measured.iqm), cell(d4rl.iqm), cell(measured.mean), *beside])
    return rows


def by_dataset(column: str) -> Table:
    body = [[name(d), *(cell(mean(d, Sample(label, column=column))) for label in AGENTS)] for d in NINE]
    return [["", *AGENTS.values()], *body]


def gains(pairs: Sequence[tuple[str, str]], datasets: Sequence[str], groups: Mapping[str, Sequence[str]]) -> Table:
    """Paired differences, a column a pair of labels: returns of each dataset, points of score over groups of them."""
    rows = [[name(d), *(cell(difference([d], Sample(a), Sample(b)), sign=True) for a, b in pairs)] for d in datasets]
    for title, group in groups.items():
        samples = [(Sample(a, column="score_measured"), Sample(b, column="score_measured")) for a, b in pairs]
        rows.append([title, *(cell(difference(group, *pair), sign=True) for pair in samples)])
    return rows


def differences() -> Table:
    pairs = [("flow", "dt"), ("flow", "bc-10"), *(("flow-norm-decay", other) for other in ("flow", "dt", "bc-10"))]
    groups = {"points, all nine": NINE, "points, HalfCheetah and the three medium": [*NINE[:3], NINE[5], NINE[8]]}
    short = {**AGENTS, "flow-norm-decay": "norm and decay"}
    return [["", *(f"{short[a]} − {short[b]}" for a, b in pairs)], *gains(pairs, NINE, groups)]


def settings(datasets: Sequence[str], labels: dict[str, tuple[str, str]], head: str = "difference") -> Table:
    """A row a setting (title: label, baseline): the return at the judged target and the difference to the baseline."""
    rows = [["", *(column for d in datasets for column in (name(d), head)), "points of score"]]
    for title, (label, baseline) in labels.items():
        row, played = [title], [d for d in datasets if CELLS.get((d, label, JUDGED[d]))]
        several = baseline and all(len(returns(d, Sample(label))) > 1 for d in played)
        for d in datasets:
            row.append(cell(mean(d, Sample(label))) if d in played else DASH)
            paired = several and d in played
            row.append(cell(difference([d], Sample(label), Sample(baseline)), sign=True) if paired else DASH)
        points = (Sample(x, column="score_measured") for x in (label, baseline))
        whole = several and played == list(datasets)
        rows.append([*row, cell(difference(datasets, *points), sign=True) if whole else DASH])
    return rows if len(datasets) > 1 else [row[:-1] for row in rows]


def attentions() -> Table:
    rows = [["", *map(name, REPLAY), "points − dt", "points − flow"]]
    for label in ("dt", "flow", "linear", "performer", "cosformer", "reformer", "linformer"):
        pairs = [(Sample(label, column="score_measured"), Sample(x, column="score_measured")) for x in ("dt", "flow")]
        beside = (DASH if ours == other else cell(difference(REPLAY, ours, other), sign=True) for ours, other in pairs)
        rows.append([label, *(cell(mean(d, Sample(label))) for d in REPLAY), *beside])
    return rows


def following(datasets: Sequence[str], labels: dict[str, str]) -> Table:
    """A row a dataset, for each label the slope of return over target and the distance between the two."""
    rows = [["", "best return", *(column for title in labels for column in (f"{title}: slope", "distance"))]]
    for d in datasets:
        rows.append(
            [name(d), number(float(JUDGED[d])), *(value for label in labels.values() for value in followed(d, label))]
        )
    return rows


def remedies() -> Table:
    """A row a setting, for each dataset its slope and distance."""
    titles = {"": "default", "3e-4": "learning rate 3e-4", "1e-4": "learning rate 1e-4, constant"}
    titles |= {"textbook": "the same, one head (textbook)", "return-observation": "no action tokens"}
    titles |= {
        "norm-decay": "output norm and decay",
        "carry-plain": "carried state",
        "carry": "carried state and options",
    }
    rows = [["", *(column for d in REPLAY for column in (f"{name(d)}: slope", "distance"))]]
    for ending, title in titles.items():
        for agent in BOTH:
            label = f"{agent}-{ending}".rstrip("-")
            if CELLS.get((REPLAY[0], label, JUDGED[REPLAY[0]])):
                rows.append([f"{agent}, {title}", *(value for d in REPLAY for value in followed(d, label))])
    return rows


def acting() -> Table:
    """Acting on 5 steps beside 20 by the same weights, which are those of the experiment `matrix`."""
    rows = [["target", *(head for x in BOTH for head in (f"{x}, 5 steps", f"{x}, 5 − 20 steps"))]]
    for target in TARGETS[REPLAY[0]]:
        row = [number(float(target))]
        for agent in BOTH:
            five, twenty = Sample(f"{agent}-act5", target), Sample(agent, target, experiment="matrix")
            row += [cell(mean(REPLAY[0], five)), cell(difference(REPLAY[:1], five, twenty), sign=True)]
        rows.append(row)
    return rows


def one_policy() -> Table:
    rows = [["", *(f"{x}, {target}" for x in BOTH for target in ("worst", "best", "beyond")), "bc"]]
    for d in NINE[:3]:
        targets = TARGETS[d][0], JUDGED[d], TARGETS[d][-1]
        played = [cell(mean(d, Sample(label, target))) for label in BOTH for target in targets]
        rows.append([name(d), *played, cell(mean(d, Sample("bc")))])
    return rows


def carried() -> Table:
    datasets = [*REPLAY, *EXPERT]
    labels = {"dt": "dt", "flow": "flow", "flow, convolution": "flow-convolution"}
    labels |= {"flow, output norm and decay": "flow-norm-decay", "flow, carried state": "flow-carry-plain"}
    labels |= {"flow, carried state and options": "flow-carry"}
    rows = [["", *map(name, datasets)]]
    for title, label in labels.items():
        played = (CELLS.get((d, label, JUDGED[d])) for d in datasets)
        cells = [cell(mean(d, Sample(label))) if there else DASH for d, there in zip(datasets, played, strict=True)]
        rows.append([title, *cells])
    return rows


def carried_gains() -> Table:
    titles = {"flow-carry-plain": "state", "flow-carry": "state and options"}
    others = {"flow": "flow", "dt": "dt", "bc-10": "10 % BC"}
    pairs = [(label, other) for label in titles for other in others]
    datasets = [*REPLAY, *EXPERT]
    head = (f"{titles[label]} − {others[other]}" for label, other in pairs)
    return [["", *head], *gains(pairs, datasets, {"points over the four": datasets})]


def costs() -> Table:
    rows = [["medians of three runs", "", "training, minutes", "final evaluation, s", "peak memory, MB"]]
    for d in EXPERT:
        for label in ("dt", "flow", "flow-carry-plain", "flow-carry"):
            runs = [r for r in RUNS if (r["dataset"], r["label"], r["date"]) == (d, label, "2026-11-29")]
            medians = (median(float(run[x]) for run in runs) for x in ("minutes", "evaluation_seconds", "peak_mb"))
            rows.append([name(d), label, *map(number, medians)])
    return rows


def values() -> Table:
    """Mean returns by dataset, then scores over all nine of the agents that were trained on all."""

    def played(d: str, label: str) -> bool:
        return bool(CELLS.get((d, label, "" if label in UNTARGETED else JUDGED[d])))

    rows = [["", "best of the data", *VALUES.values()]]
    for d in NINE:
        cells = [cell(mean(d, Sample(label))) if played(d, label) else DASH for label in VALUES]
        rows.append([name(d), number(float(JUDGED[d])), *cells])
    scores = {
        label: [returns(d, Sample(label, column="score_measured")) for d in NINE]
        for label in VALUES
        if all(played(d, label) for d in NINE)
    }
    totals = {label: statistics.aggregate(of_label, generator()) for label, of_label in scores.items()}
    better = {
        label: statistics.probability_of_improvement(of_label, scores["bc-10"], generator())
        for label, of_label in scores.items()
        if label != "bc-10"
    }
    rows.append(["IQM of the scores", "", *(cell(totals[x].iqm) if x in totals else DASH for x in VALUES)])
    rows.append(["mean score", "", *(cell(totals[x].mean) if x in totals else DASH for x in VALUES)])
    rows.append(["P(better than 10 % BC)", "", *(cell(better[x]) if x in better else DASH for x in VALUES)])
    return rows


def values_costs() -> Table:
    """CPU seconds to the first evaluation of 90 % of the best return of the data, and of whole trainings; medians."""

    def of(label: str, *datasets: str) -> list[dict[str, str]]:
        return [r for r in RUNS if (r["experiment"], r["label"]) == ("values", label) and r["dataset"] in datasets]

    rows = [["", *VALUE_AGENTS]]
    for d in NINE:
        row = [name(d)]
        for label in VALUE_AGENTS:
            runs = of(label, d)
            reached = [float(run["cpu_seconds_to_90"]) for run in runs if run["cpu_seconds_to_90"]]
            seconds = f"{number(median(reached))}, " if reached else ""
            row.append(f"{seconds}{len(reached)} of {len(runs)}" if runs else DASH)
        rows.append(row)
    wholes = [[float(run["cpu_seconds"]) for run in of(label, *NINE)] for label in VALUE_AGENTS]
    rows.append(["whole training", *(number(median(whole)) if whole else DASH for whole in wholes)])
    return rows


def corridor_runs() -> dict[str, list[dict[str, str]]]:
    grouped = defaultdict(list)
    for run in RUNS:
        if "corridor" in run["dataset"]:
            grouped[run["label"] + (", 1000 trained too" if run["experiment"] == "corridor-1000" else "")].append(run)
    return grouped


def corridor() -> Table:
    body = [
        [label, *(", ".join(f"{float(run[f'corridor_{length}']):.2f}" for run in runs) for length in LENGTHS)]
        for label, runs in corridor_runs().items()
    ]
    return [["length", *LENGTHS], *body]


RATES = {"3e-4 falling to 0": "3e-4", "1e-4 constant": "1e-4"}
FEW_SEEDS = {"one head": "one-head", "no warm-up": "no-warmup", "fp32": "fp32", "20,000 steps (one seed)": "long"}
TABLES: dict[str, Callable[[], Table]] = {
    "scores": scores,
    "datasets": lambda: by_dataset("score_measured"),
    "datasets-d4rl": lambda: by_dataset("score_d4rl"),
    "differences": differences,
    "attentions": attentions,
    "following": lambda: following(NINE, {"flow": "flow", "dt": "dt"}),
    "acting": acting,
    "remedies": remedies,
    "one-policy": one_policy,
    "corridor": corridor,
    "carried": carried,
    "carried-gains": carried_gains,
    "costs": costs,
    "hidden": lambda: settings(
        REPLAY,
        {
            "flow, window of 20": ("flow-hidden", "flow"),
            "flow, carried state and options": ("flow-carry-hidden", "flow-carry"),
        },
        "− with velocities",
    ),
    "hidden-state": lambda: [
        ["carried state and options − window, both without velocities", "return"],
        *gains([("flow-carry-hidden", "flow-hidden")], REPLAY, {}),
    ],
    "rates": lambda: settings(
        REPLAY,
        {f"{x}, 1e-3 falling to 0 (default)": (x, "") for x in BOTH}
        | {f"{x}, {title}": (f"{x}-{label}", x) for title, label in RATES.items() for x in BOTH}
        | {"dt, 1e-4 constant, one head (textbook)": ("dt-textbook", "dt")},
        "− default",
    ),
    "heads": lambda: settings(
        REPLAY,
        {f"{x}, 3e-4": (f"{x}-3e-4-one-head", f"{x}-3e-4") for x in BOTH} | {"dt, 1e-4": ("dt-textbook", "dt-1e-4")},
        "− four heads",
    ),
    "few-seeds": lambda: settings(
        REPLAY,
        {f"{x}, {title}": (f"{x}-{label}", x) for title, label in FEW_SEEDS.items() for x in BOTH},
        "− default",
    ),
    "tokens": lambda: [
        ["no action tokens − default", *BOTH],
        *gains(
            [(f"{x}-return-observation", x) for x in BOTH],
            [*NINE[3:6], *EXPERT],
            {"points over the five": [*NINE[3:6], *EXPERT]},
        ),
    ],
    "values": values,
    "values-costs": values_costs,
    "one-token": lambda: settings(REPLAY, {f"{x}, one token a step": (f"{x}-observation", x) for x in BOTH}),
}
