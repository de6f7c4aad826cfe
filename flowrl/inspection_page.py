"""An inspected dataset as a screen of text, a self-contained HTML page, a picture of its returns, and JSON."""

import base64
import html
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import minari
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from flowrl.checkpoint import write_atomically
from flowrl.inspection import (
    LISTED,
    SHIFTS,
    START,
    Alignment,
    Distribution,
    Feature,
    Figures,
    Gain,
    Histogram,
    Steering,
    figure,
    share,
)

EPISODES_COLOUR, STEPS_COLOUR = "#0b5fa5", "#c4501b"
REFERENCES = {"dataset": "dataset's own", "D4RL": "D4RL", "own": "measured by us"}

Table = list[list[str]]


@dataclass(frozen=True)
class Inspection:
    """All that was found out about one dataset; what could not be is None."""

    id: str
    fingerprint: str | None
    metadata: dict[str, str]
    references: dict[str, tuple[float, float] | None]
    """Returns of a random and of an expert policy, by who says so."""
    refused: list[str]
    """What training would refuse."""
    warnings: list[str]
    figures: Figures | None
    alignment: Alignment | None
    steering: Steering | None


def metadata(dataset: minari.MinariDataset) -> dict[str, str]:
    """What a dataset says of itself, as text; what it does not say is left out."""
    stored = dataset.storage.metadata
    env = dataset.env_spec
    wanted = {
        "environment": None if env is None else env.id,
        "horizon": None if env is None else env.max_episode_steps,
        "environment arguments": None if env is None or not env.kwargs else env.kwargs,
        "algorithm": stored.get("algorithm_name"),
        "description": stored.get("description"),
        "requirements": stored.get("requirements"),
        "author": stored.get("author"),
        "author's address": stored.get("author_email"),
        "code": stored.get("code_permalink"),
        "minari": stored.get("minari_version"),
        "observation space": dataset.observation_space,
        "action space": dataset.action_space,
        "folder": dataset.storage.data_path,
        "size": None if stored.get("dataset_size") is None else f"{stored['dataset_size']} MB",
    }
    return {name: _text(value) for name, value in wanted.items() if value not in (None, "", [], set())}


def _text(value: Any) -> str:
    return ", ".join(sorted(map(str, value))) if isinstance(value, list | tuple | set | frozenset) else str(value)


# Tables, as text, header first.


def overview_table(found: Figures) -> Table:
    """Quantiles of what an episode and a step are like."""
    percents = [*found.returns.percentiles] or [*found.lengths.percentiles]
    header = ["", "mean", "std", *({0: "min", 50: "median", 100: "max"}.get(p, f"p{p}") for p in percents)]
    rows = [
        ("return, over episodes", found.returns),
        ("return, over steps", found.returns_by_step),
        ("length", found.lengths),
        ("return-to-go", found.returns_to_go),
        ("reward of a step", found.rewards),
    ]
    return [header, *([name, *_distribution(d, percents)] for name, d in rows)]


def _distribution(one: Distribution, percents: Sequence[int]) -> list[str]:
    return [figure(one.mean), figure(one.std), *(figure(one.percentiles.get(percent)) for percent in percents)]


def score_table(found: Figures, references: dict[str, tuple[float, float] | None]) -> Table:
    """Percentiles of the episodes' returns, normalised by every reference that is known, each in its own column."""
    names = [name for name in references if name in found.scores]
    table = [["return over episodes", "raw", *(REFERENCES.get(name, name) for name in names)]]
    for percent, value in found.returns.percentiles.items():
        label = {0: "min", 50: "median", 100: "max"}.get(percent, f"p{percent}")
        table.append([label, figure(value), *(f"{found.scores[name][percent]:.1f}" for name in names)])
    pairs = [references[name] for name in names]
    for row, end in enumerate(("reference: random = 0", "reference: expert = 100")):
        table.append([end, "", *("" if pair is None else figure(pair[row]) for pair in pairs)])
    return table


def flag_table(found: Figures) -> Table:
    """How the episodes end."""
    rows = [
        ("terminated (by the task)", found.terminated),
        ("truncated (by a time limit)", found.truncated),
        ("both", found.both_flags),
        ("neither flag", found.neither_flag),
        ("a flag before the last step", found.early_flags),
    ]
    return [["", "episodes", "share"], *([name, f"{n:,}", f"{n / found.episodes:.1%}"] for name, n in rows)]


def feature_table(features: Sequence[Feature], *, bounds: bool) -> Table:
    """A row per dimension; with `bounds`, the shares of entries that stand at one."""
    table = [["dimension", "min", "mean", "std", "max", *(["at lower bound", "at upper bound"] if bounds else []), ""]]
    for one in features:
        shares = ["–" if share is None else f"{share:.1%}" for share in (one.at_low, one.at_high)] if bounds else []
        note = ", ".join(
            [*(["constant"] if one.constant else []), *([f"{one.non_finite:,} not finite"] if one.non_finite else [])]
        )
        figures = [figure(value) for value in (one.minimum, one.mean, one.std, one.maximum)]
        table.append([str(one.dimension), *figures, *shares, note])
    return table


def alignment_table(alignment: Alignment) -> Table:
    """Errors of the simulator under every way of putting the data together."""
    rewards = ("r[t-1]", "r[t]", "r[t+1]")
    table = [
        [
            "simulator's step → compared with",
            "transitions",
            "median error",
            "largest",
            *(f"reward: {r}" for r in rewards),
        ]
    ]
    for shift in alignment.shifts:
        name = SHIFTS[shift.name] + (" (as stored)" if shift.name == "stored" else "")
        errors = [small(shift.rewards.get(reward)) for reward in rewards]
        table.append([name, f"{shift.count:,}", small(shift.median), small(shift.maximum), *errors])
    return table


def seeded_table(alignment: Alignment) -> Table:
    """Errors of the episodes that were played again from their recorded seeds."""
    seeded = alignment.seeded
    if seeded is None:
        return []
    return [
        ["episodes", "steps", "first observation", "median error", "largest", "reward: largest", "leaves the data"],
        [
            f"{seeded.episodes:,}", f"{seeded.steps:,}", small(seeded.first_observation), small(seeded.median),
            small(seeded.maximum), small(seeded.reward), "never" if seeded.diverged is None else f"{seeded.diverged:,}",
        ],
    ]  # fmt: skip


def steering_table(steering: Steering) -> Table:
    """What the return-to-go adds to the prediction of actions."""
    table = [
        [
            "held-out prediction of actions",
            "steps",
            "episodes",
            "explained without",
            "gain with return-to-go",
            "95 % interval",
        ]
    ]
    for name, gain in (("anywhere", steering.everywhere), (f"first {START} steps", steering.start)):
        if gain is not None:
            table.append([name, *_gain(gain)])
    return table


def _gain(gain: Gain) -> list[str]:
    shares = [share(gain.explained), share(gain.gain), f"[{share(gain.low)}, {share(gain.high)}]"]
    return [f"{gain.steps:,}", f"{gain.episodes:,}", *shares]


def small(value: float | None) -> str:
    """An error in two digits; a dash for None."""
    return "–" if value is None else f"{value:.2g}"


# The screen.


def screen(inspection: Inspection) -> str:
    """The result in plain text."""
    found = inspection.figures
    lines = [f"{inspection.id}  ({inspection.metadata.get('environment', 'no environment named')})"]
    for sentence in inspection.refused:
        lines.append(f"REFUSED by training: {sentence}")
    if found is not None:
        lines += [
            f"{found.episodes:,} episodes, {found.steps:,} steps; {found.terminated / found.episodes:.0%} terminated,"
            f" {found.truncated / found.episodes:.0%} truncated, {found.neither_flag:,} with neither flag;"
            f" {found.repeated:,} repeated, {found.non_finite:,} numbers not finite",
            "",
            _console(overview_table(found)),
            "",
            _console(score_table(found, inspection.references)),
            "",
        ]
        for place in found.non_finite_places[:5]:
            where = "" if place.dimension is None else f", dimension {place.dimension}"
            lines.append(
                f"not finite: {place.array} of episode {place.episode}, step {place.step}{where}: {place.value}"
            )
    if inspection.alignment is not None:
        lines.append(f"alignment: {inspection.alignment.sentence}")
        lines += [f"           {line}" for line in _seeded_lines(inspection.alignment)]
    if inspection.steering is not None:
        lines.append(f"can returns steer it? {inspection.steering.sentence}")
    lines += [f"warning: {sentence}" for sentence in inspection.warnings]
    return "\n".join(lines)


def _seeded_lines(alignment: Alignment) -> list[str]:
    seeded = alignment.seeded
    if seeded is None:
        return []
    until = "never leaves the data" if seeded.diverged is None else f"leaves the data at step {seeded.diverged:,}"
    return [
        f"played again from recorded seeds, {seeded.episodes:,} episode(s) of {seeded.steps:,} steps: largest error"
        f" {small(seeded.maximum)}, {until}"
    ]


def _console(table: Table) -> str:
    """In columns, the first one to the left."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    )


# The files.


def write_inspection(inspection: Inspection, out: Path) -> list[Path]:
    """Write `index.html`, `summary.json` and, where there are returns, `returns.png` into `out`; their paths."""
    out.mkdir(parents=True, exist_ok=True)
    contents = {"index.html": page(inspection).encode(), "summary.json": summary(inspection).encode()}
    if inspection.figures is not None and inspection.figures.returns.count:
        contents["returns.png"] = returns_picture(inspection.figures, inspection.id)
    else:
        (out / "returns.png").unlink(missing_ok=True)  # that of an earlier state of the dataset
    for name, content in contents.items():
        write_atomically(out / name, content)
    return [out / name for name in contents]


def summary(inspection: Inspection) -> str:
    """Every figure as strict JSON; what is not finite is null."""
    return json.dumps(_plain(asdict(inspection)), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def returns_picture(found: Figures, title: str) -> bytes:
    """A PNG: histograms of the returns over episodes and over steps, which tell of different things."""

    def draw(axes: Axes) -> None:
        total = max(sum(found.returns_histogram.counts), 1), max(sum(found.returns_by_step_histogram.counts), 1)
        _stairs(axes, found.returns_histogram, total[0], EPISODES_COLOUR, "of episodes", fill=True)
        _stairs(
            axes, found.returns_by_step_histogram, total[1], STEPS_COLOUR, "of steps (by their episode)", fill=False
        )
        axes.set(title=title.replace("$", r"\$"), xlabel="return of the episode", ylabel="share (%)")
        axes.legend(frameon=False)

    return _picture(draw, (6.4, 3.6))


def rewards_picture(found: Figures) -> bytes:
    """A PNG: histogram of the rewards of single steps."""

    def draw(axes: Axes) -> None:
        _stairs(
            axes, found.rewards_histogram, max(sum(found.rewards_histogram.counts), 1), EPISODES_COLOUR, "", fill=True
        )
        axes.set(xlabel="reward of a step", ylabel="share of steps (%)")

    return _picture(draw, (6.4, 2.8))


def _stairs(axes: Axes, histogram: Histogram, total: int, colour: str, label: str, *, fill: bool) -> None:
    shares = [100.0 * count / total for count in histogram.counts]
    axes.stairs(
        shares,
        histogram.edges,
        color=colour,
        fill=fill,
        alpha=0.55 if fill else 1.0,
        linewidth=1.6,
        label=label or None,
    )


def _picture(draw: Callable[[Axes], None], size: tuple[float, float]) -> bytes:
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    axes.set_ylim(bottom=0)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


_STYLE = """
body { margin: 2rem auto; max-width: 66rem; padding: 0 1.2rem; background: #fff; color: #1c2733;
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; padding-top: .8rem; border-top: 1px solid #e3e8ee; }
p.lead { color: #5a6775; margin: 0 0 1.2rem; }
.box { border-left: 4px solid #0b5fa5; background: #f4f8fb; padding: .6rem .9rem; margin: .6rem 0; }
.box b { display: block; font-size: .85rem; color: #5a6775; font-weight: 600; }
.good { border-color: #3a7d44; background: #f3f9f4; }
.mild { border-color: #d19a1d; background: #fdf8ec; }
.bad { border-color: #b3261e; background: #fdf2f1; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .22rem .7rem; text-align: right; border-bottom: 1px solid #edf0f4; white-space: nowrap; }
th { color: #5a6775; font-weight: 600; border-bottom-color: #c9d2dc; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
table.words td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
table.words td:first-child { color: #5a6775; white-space: nowrap; vertical-align: top; }
img { max-width: 100%; height: auto; display: block; }
ul { margin: .3rem 0; padding-left: 1.2rem; }
"""

_TONE = {"aligned": "good", "yes": "good", "misaligned": "bad", "partly misaligned": "bad"}


def page(inspection: Inspection) -> str:
    """The HTML page: everything in one file, and every text from the data escaped."""
    found, alignment, steering = inspection.figures, inspection.alignment, inspection.steering
    body = [f"<h1>{_escaped(inspection.id)}</h1>"]
    lead = [inspection.metadata.get("environment", "no environment named")]
    if found is not None:
        lead += [f"{found.episodes:,} episodes", f"{found.steps:,} steps"]
    body.append(f'<p class="lead">{_escaped(" · ".join(lead))}</p>')
    if inspection.refused:
        body.append(_box("bad", "Training would refuse this dataset", inspection.refused))
    if steering is not None:
        body.append(_box(_TONE.get(steering.verdict, "mild"), "Can returns steer it?", [steering.sentence]))
    if alignment is not None:
        told = [alignment.sentence, *(f"{line[0].upper()}{line[1:]}." for line in _seeded_lines(alignment))]
        body.append(_box(_TONE.get(alignment.verdict, "mild"), "Do observations follow from actions?", told))
    if inspection.warnings:
        body.append(_box("mild", "Warnings", inspection.warnings))
    if found is not None:
        body += _figure_sections(inspection, found)
    if alignment is not None and (alignment.shifts or alignment.seeded):
        body += ["<h2>Alignment with the simulator</h2>"]
        if alignment.shifts:
            skipped = (
                f"{alignment.skipped_clipped:,} with a clipped velocity and {alignment.skipped_not_set:,} whose state"
                " could not be set"
            )
            body += [
                f"<p>{alignment.checked:,} stored transitions were stepped again; left out: {skipped}. Errors are the"
                " largest absolute difference over the dimensions, those of rewards are medians.</p>",
                _table(alignment_table(alignment)),
                f"<p>Median error of first transitions {small(alignment.first)}, of last ones"
                f" {small(alignment.last)}.</p>",
            ]
        if alignment.seeded is not None:
            body += [
                "<p>Whole episodes played again from their recorded reset seeds:</p>",
                _table(seeded_table(alignment)),
            ]
    if steering is not None and (steering.everywhere or steering.start):
        body += [
            "<h2>Steering by return</h2>",
            "<p>A ridge regression of the action on observation and time, without and with the return-to-go, judged"
            " on episodes held out: the gain is how much of its squared error the return-to-go takes away.</p>",
            _table(steering_table(steering)),
        ]
    rows = "".join(
        f"<tr><td>{_escaped(name)}</td><td>{_escaped(value)}</td></tr>"
        for name, value in (inspection.metadata | {"fingerprint": inspection.fingerprint or "–"}).items()
    )
    body.append(f'<h2>Metadata</h2><table class="words">{rows}</table>')
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_escaped(inspection.id)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _figure_sections(inspection: Inspection, found: Figures) -> list[str]:
    parts = ["<h2>Returns</h2>"]
    if found.returns.count:
        parts.append(_image(returns_picture(found, ""), "Histogram of returns over episodes and over steps"))
    parts += [
        _table(overview_table(found)),
        "<h2>Scores</h2><p>100 · (return − random) / (expert − random); the columns have different references and"
        " are not to be mixed.</p>",
        _table(score_table(found, inspection.references)),
        "<h2>Ends of episodes</h2>",
        _table(flag_table(found)),
        "<h2>Rewards</h2>",
    ]
    if found.rewards.count:
        parts.append(_image(rewards_picture(found), "Histogram of rewards"))
    parts += [
        "<h2>Observations</h2>",
        _table(feature_table(found.observations, bounds=False)),
        "<h2>Actions</h2>",
        _table(feature_table(found.actions, bounds=True)),
    ]
    if found.duplicates:
        groups = [" = ".join(map(str, group)) for group in found.duplicates]
        listed = groups[:LISTED] + ([f"and {len(groups) - LISTED:,} groups more"] if len(groups) > LISTED else [])
        parts.append(f"<h2>Equal episodes</h2>{_list(listed)}")
    if found.non_finite_places:
        places = [["array", "episode", "step", "dimension", "value"]]
        for p in found.non_finite_places:
            places.append(
                [p.array, str(p.episode), str(p.step), "" if p.dimension is None else str(p.dimension), p.value]
            )
        parts += [f"<h2>Not finite</h2><p>{found.non_finite:,} numbers, first:</p>", _table(places)]
    return parts


def _box(tone: str, title: str, sentences: Sequence[str]) -> str:
    told = _escaped(sentences[0]) if len(sentences) == 1 else _list(sentences)
    return f'<div class="box {tone}"><b>{_escaped(title)}</b>{told}</div>'


def _list(sentences: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{_escaped(sentence)}</li>" for sentence in sentences) + "</ul>"


def _table(table: Table) -> str:
    header, *rows = table
    head = "".join(f"<th>{_escaped(cell)}</th>" for cell in header)
    lines = "".join("<tr>" + "".join(f"<td>{_escaped(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{lines}</table></div>'


def _image(png: bytes, alternative: str) -> str:
    return f'<img alt="{_escaped(alternative)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _escaped(text: str) -> str:
    return html.escape(text, quote=True)
