"""Pictures of what the agents attend to, from the studies of their runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from flowrl.report.comparison import Comparison
from flowrl.report.runs import Row, Run
from flowrl.report.style import GRID, WIDTH, Picture, Style, legend, styles
from flowrl.text import number, share

SIDE_BY_SIDE = 3  # agents in one picture of weights: more would be too small on a phone
KINDS = ("return", "observation", "action")
DARKEST = 3  # times a uniform weight

FLOWS = {
    "incoming": ("Incoming flow I", "What this token, as a sink, draws from all before it."),
    "competition": ("Competition C", "The share that this token, as a source, wins against those before it, times n."),
    "allocation": ("Allocation sigmoid(Î)", "How much of what it draws this token lets pass."),
}


def map_pictures(comparison: Comparison, slug: str, of_label: Mapping[str, Style]) -> list[Picture]:
    """Effective weights side by side, how many tokens are looked at, and the flows of Flow-Attention over an episode.

    Of every label the first training seed that was studied is shown.
    """
    studied = [run for label in of_label if (run := comparison.studied(label)) is not None]
    runs = [run for run in studied if run.study and run.study["maps"]]
    if not runs:
        return []
    drawn = []
    for first in range(0, len(runs), SIDE_BY_SIDE):
        name = f"attention-weights-{f'{first // SIDE_BY_SIDE + 1}-' if first else ''}{slug}"
        drawn.append(_weights(runs[first : first + SIDE_BY_SIDE], name))
    drawn.append(_attended(runs, slug, of_label))
    for run in runs:
        if _maps(run)["flows"] is not None:
            drawn += [_flow(run, name, slug) for name in FLOWS]
    return drawn


def attention_rows(comparison: Comparison) -> list[Row]:
    """Per label and layer, means over heads and the steps of one episode of what a study measures.

    `tokens` is exp(entropy) of the weights of the token from which the action is read, `gain` their sum; `return`,
    `observation` and `action` are the shares of the weight on these tokens, None where a step has no such token.
    """
    rows = []
    for label in comparison.labels:
        run = comparison.studied(label)
        maps = run.study["maps"] if run and run.study else None
        if maps is None:
            continue
        for layer in range(len(maps["attended"])):
            measures = {"tokens": maps["attended"], "gain": maps["gain"], **dict.fromkeys(KINDS), **maps["share"]}
            means = {
                name: None if series is None else float(np.nanmean(_floats(series[layer])))
                for name, series in measures.items()
            }
            rows.append({"dataset": comparison.dataset, "agent": label, "layer": layer + 1, **means})
    return rows


def _maps(run: Run) -> Row:
    assert run.study is not None
    return run.study["maps"]


def _weights(runs: Sequence[Run], name: str) -> Picture:
    layers = max(len(_maps(run)["picture"]["weights"]) for run in runs)
    panel = WIDTH / len(runs)
    figure = Figure(figsize=(WIDTH, 0.95 * panel * layers + 0.5), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(layers, len(runs), squeeze=False)
    rows: list[Row] = []
    for column, run in enumerate(runs):
        shown = _maps(run)["picture"]
        for layer in range(layers):
            axes: Axes = panels[layer][column]
            axes.set(xticks=[], yticks=[])
            if layer >= len(shown["weights"]):
                axes.set_axis_off()
                continue
            weights, gain = _floats(shown["weights"][layer]), _floats(shown["gain"][layer])  # (heads, queries, keys)
            mean = (weights / np.maximum(gain, 1e-12)[..., None]).mean(0)
            # Against uniform weights: else the first tokens, which have few to look at, would outshine all others.
            against_uniform = mean * (shown["tokens_before"] + np.arange(1, len(mean) + 1))[:, None]
            seen = np.ma.masked_array(against_uniform, np.triu(np.ones_like(mean, bool), 1))
            axes.imshow(seen, cmap="Greys", vmin=0, vmax=DARKEST)
            if layer == 0:
                axes.set_title(run.label, fontsize=10)
            if column == 0:
                axes.set_ylabel(f"layer {layer + 1}", fontsize=9)
            rows += [
                {
                    "agent": run.label,
                    "seed": run.seed,
                    "layer": layer + 1,
                    "query": shown["tokens"][i],
                    "key": shown["tokens"][j],
                    "weight": round(float(mean[i, j]), 5),
                }
                for i, j in zip(*np.tril_indices_from(mean), strict=True)
            ]
    figure.supxlabel("token looked at →", fontsize=9)
    figure.supylabel("← token that looks", fontsize=9)
    windows = "; ".join(_window(run) for run in runs)
    orders = {
        run.label: ", ".join(dict.fromkeys(t.split()[0] for t in _maps(run)["picture"]["tokens"])) for run in runs
    }
    alike = len(set(orders.values())) == 1
    order = orders[runs[0].label] if alike else "; ".join(f"{label}: {order}" for label, order in orders.items())
    return Picture(
        name,
        "Effective attention weights",
        f"What was acted on at one step ({windows}), the mean over heads: white is no weight, black {DARKEST} times"
        f" that of uniform weights or more. Tokens of each step in the order {order}. The data are shares of all of a"
        " token's weight.",
        figure,
        rows,
        f"{'; '.join(map(_most_looked_at, runs))}.",
        "attention",
    )


def _most_looked_at(run: Run) -> str:
    """Which token the last token of the picture looks at most, layer by layer."""
    shown = _maps(run)["picture"]
    largest = []
    for layer, (weights, gain) in enumerate(zip(shown["weights"], shown["gain"], strict=True)):
        last = (_floats(weights) / np.maximum(_floats(gain), 1e-12)[..., None]).mean(0)[-1]
        most = int(np.nanargmax(last))
        largest.append(f"{share(float(last[most]))} on {shown['tokens'][most]} in layer {layer + 1}")
    return f"The last token of {run.label} puts its largest weight, {', '.join(largest)}"


def _window(run: Run) -> str:
    shown = _maps(run)["picture"]
    cut = f", the last {len(shown['tokens'])} of {len(shown['tokens']) + shown['tokens_before']} tokens"
    return f"{run.label} seed {run.seed} step {shown['step']}" + (cut if shown["tokens_before"] else "")


def _attended(runs: Sequence[Run], slug: str, of_label: Mapping[str, Style]) -> Picture:
    layers = max(len(_maps(run)["attended"]) for run in runs)
    figure, panels = _stack(layers, "step of the episode")
    rows: list[Row] = []
    reading = []
    for run in runs:
        maps, style = _maps(run), of_label[run.label]
        for layer, heads in enumerate(maps["attended"]):
            mean = _floats(heads).mean(0)
            panels[layer].plot(maps["steps"], mean, label=run.label if layer == 0 else None, markevery=20, **style)
            rows += [
                {"agent": run.label, "seed": run.seed, "layer": layer + 1, "step": step, "tokens": float(value)}
                for step, value in zip(maps["steps"], mean, strict=True)
            ]
            reading.append(f"{run.label} looks at {number(float(np.nanmean(mean)))} tokens in layer {layer + 1}")
    for axes in panels:
        axes.set_ylim(bottom=0)
    legend(figure)
    assert runs[0].study is not None
    return Picture(
        f"attended-{slug}",
        "How many tokens are looked at",
        "exp(entropy) of the weights of the token from which the action is read, the mean over heads; of"
        f" {max(max(_maps(run)['tokens']) for run in runs)} tokens at most, in an episode at target"
        f" {number(runs[0].study['best'])}.",
        figure,
        rows,
        f"On average {'; '.join(reading)}.",
        "attention",
    )


def _flow(run: Run, name: str, slug: str) -> Picture:
    title, meaning = FLOWS[name]
    maps = _maps(run)
    series: list[list[list[float]]] = maps["flows"][name]
    figure, panels = _stack(len(series), "step of the episode")
    rows: list[Row] = []
    reading = []
    for layer, heads in enumerate(series):
        least, most = np.nanmin(_floats(heads)), np.nanmax(_floats(heads))
        reading.append(f"from {number(least)} to {number(most)} in layer {layer + 1}")
        labels = [f"head {head + 1}" for head in range(len(heads))]
        for (head, style), values in zip(styles(labels).items(), heads, strict=True):
            drawn: dict[str, Any] = style | {"marker": "", "linewidth": 1.1}
            panels[layer].plot(maps["steps"], _floats(values), label=head if layer == 0 else None, **drawn)
            rows += [
                {"agent": run.label, "seed": run.seed, "layer": layer + 1, "head": head, "step": step, name: value}
                for step, value in zip(maps["steps"], values, strict=True)
            ]
    legend(figure)
    return Picture(
        f"{name}-{run.label}-{slug}",
        f"{run.label}: {title}",
        f"{meaning} At the observation token from which the action is read, within its window; seed {run.seed}.",
        figure,
        rows,
        f"The values of {run.label} reach {', '.join(reading)}.",
        "attention",
    )


def _stack(count: int, x: str) -> tuple[Figure, list[Axes]]:
    """A picture of panels one above the other, one a layer."""
    figure = Figure(figsize=(WIDTH, 1.25 * count + 0.9), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(count, 1, squeeze=False, sharex=True)[:, 0])
    for layer, axes in enumerate(panels):
        axes.set_ylabel(f"layer {layer + 1}", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(color=GRID)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel(x)
    return figure, panels


def _floats(values: Sequence[Any]) -> NDArray[np.float64]:
    """Numbers of a study; NaN where it has none."""
    return np.array(values, np.float64)
