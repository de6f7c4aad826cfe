"""The HTML page of an inspection: everything in one file, and every text from the data escaped."""

from collections.abc import Sequence
from pathlib import Path

from flowrl.files import write_atomically
from flowrl.html import document, escaped, image, items, table
from flowrl.inspection.alignment import Alignment
from flowrl.inspection.answers import Answer, answers
from flowrl.inspection.features import Feature
from flowrl.inspection.pictures import returns_picture, rewards_picture
from flowrl.inspection.result import Inspection, as_json
from flowrl.inspection.statistics import Statistics
from flowrl.inspection.steering import TELLING
from flowrl.inspection.tables import (
    alignment_table,
    error,
    feature_table,
    flag_table,
    overview_table,
    score_table,
    seeded_table,
    steering_table,
)
from flowrl.text import LISTED

__all__ = ["page", "write_inspection"]


def write_inspection(inspection: Inspection, out: Path) -> list[Path]:
    """Write `index.html`, `summary.json` and, where there are returns, `returns.png` into `out`; their paths."""
    out.mkdir(parents=True, exist_ok=True)
    contents = {"index.html": page(inspection).encode(), "summary.json": as_json(inspection).encode()}
    if inspection.statistics is not None and inspection.statistics.returns.count:
        contents["returns.png"] = returns_picture(inspection.statistics, inspection.id)
    else:
        (out / "returns.png").unlink(missing_ok=True)  # that of an earlier state of the dataset
    for name, content in contents.items():
        write_atomically(out / name, content)
    return [out / name for name in contents]


_STYLE = """
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: .8rem; }
.answer { border-left: 4px solid var(--edge); background: var(--panel); padding: .6rem .9rem; overflow-wrap: anywhere; }
.answer h3 { font-size: .85rem; color: var(--quiet); font-weight: 600; margin: 0; }
.answer p { margin: .1rem 0 .3rem; font-weight: 600; }
.answer ul { font-size: .88rem; }
.good { border-color: var(--good-edge); background: var(--good); }
.mild { border-color: var(--warn-edge); background: var(--warn); }
.bad { border-color: var(--bad-edge); background: var(--bad); }
"""


def page(inspection: Inspection) -> str:
    """The HTML page: everything in one file, and every text from the data escaped."""
    statistics, alignment, steering = inspection.statistics, inspection.alignment, inspection.steering
    body = [
        f"<h1>{escaped(inspection.id)}</h1>",
        '<div class="answers">',
        *map(_answer, answers(inspection)),
        "</div>",
    ]
    if statistics is not None:
        body += _statistics_sections(inspection, statistics)
    if alignment is not None and (alignment.shifts or alignment.seeded):
        body += ["<h2>Do observations follow from actions?</h2>", *_alignment_section(alignment)]
    if steering is not None and (steering.everywhere or steering.start):
        body += [
            "<h2>Steering by return</h2>",
            "<p>A regression predicts the action from observation and time, first without and then with the"
            " return-to-go. Both are tested on episodes that they were not fitted to. Where the return-to-go reduces"
            f" the squared error, the actions differ with it. A reduction counts from {TELLING:.1%} on, a rule of thumb"
            " from our Hopper data. No policy is trained here: this is an expectation, not a result.</p>",
            table(steering_table(steering)),
        ]
    rows = "".join(
        f"<tr><td>{escaped(name)}</td><td>{escaped(value)}</td></tr>"
        for name, value in (inspection.metadata | {"fingerprint": inspection.fingerprint or "–"}).items()
    )
    body.append(f'<h2>Metadata</h2><table class="words">{rows}</table>')
    return document(inspection.id, body, style=_STYLE)


def _alignment_section(alignment: Alignment) -> list[str]:
    parts = []
    if alignment.shifts:
        parts += [
            f"<p>The simulator was put into the state of {alignment.checked:,} stored observations o[t] and made one"
            " step. Where the data fit the simulator, the first row is small and all others are large. An error is the"
            " largest absolute difference over an observation’s numbers; those of rewards r are medians. Left out:"
            f" {alignment.skipped_clipped:,} transitions with a velocity at its clip, and"
            f" {alignment.skipped_not_set:,} whose state could not be set.</p>",
            table(alignment_table(alignment)),
            f"<p>Median error of first transitions {error(alignment.first)}, of last ones {error(alignment.last)}.</p>",
        ]
    elif alignment.skipped_not_set or alignment.skipped_clipped:
        parts.append(f"<p>No single transition was checked. {escaped(alignment.sentence)}</p>")
    if alignment.seeded is not None:
        parts += [
            "<p>Whole episodes replayed from their recorded reset seeds:</p>",
            table(seeded_table(alignment)),
        ]
    return parts


def _statistics_sections(inspection: Inspection, statistics: Statistics) -> list[str]:
    parts = ["<h2>Returns</h2>"]
    if statistics.returns.count:
        parts.append(image(returns_picture(statistics, ""), "Histogram of returns over episodes and over steps"))
    parts += [
        "<p>Over episodes, every episode counts once. Over steps, every step counts with the return of its episode:"
        " training draws steps, so this is what it sees.</p>",
        table(overview_table(statistics)),
    ]
    if statistics.scores:
        parts += [
            "<h2>Scores</h2><p>100 · (return − random) / (expert − random). Each column has other references, in the"
            " last two rows: numbers of different columns cannot be compared.</p>",
            table(score_table(statistics, inspection.references)),
        ]
    parts += ["<h2>Ends of episodes</h2>", table(flag_table(statistics))]
    if statistics.rewards.count:
        parts += ["<h2>Rewards</h2>", image(rewards_picture(statistics), "Histogram of rewards")]
    parts += _feature_section("Observations", statistics.observations)
    parts += _feature_section("Actions", statistics.actions)
    return [*parts, *_fault_sections(statistics)]


def _feature_section(title: str, features: Sequence[Feature]) -> list[str]:
    parts = [f"<h2>{title}</h2>"]
    if any(feature.one_hot for feature in features):
        parts.append("<p>The mean of a one-hot column is the share of the rows with this value.</p>")
    bounds = any(feature.saturated is not None for feature in features)
    return [*parts, table(feature_table(features, bounds=bounds))]


def _fault_sections(statistics: Statistics) -> list[str]:
    parts = []
    if statistics.duplicates:
        groups = [" = ".join(map(str, group)) for group in statistics.duplicates]
        listed = groups[:LISTED] + ([f"and {len(groups) - LISTED:,} groups more"] if len(groups) > LISTED else [])
        parts.append(f"<h2>Equal episodes</h2>{items(listed)}")
    if statistics.non_finite_places:
        places = [["array", "episode", "step", "column", "value"]]
        for p in statistics.non_finite_places:
            places.append([p.array, str(p.episode), str(p.step), p.column or "", p.value])
        parts += [f"<h2>Not finite</h2><p>{statistics.non_finite:,} numbers, first:</p>", table(places)]
    return parts


def _answer(one: Answer) -> str:
    detail = items(one.detail) if one.detail else ""
    return (
        f'<div class="answer {one.tone}"><h3>{escaped(one.question)}</h3><p>{escaped(one.sentence)}</p>{detail}</div>'
    )
