"""The HTML page of a report: one file that needs no network; tables sort at a click on their head."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from flowrl.html import data_url, document, escaped, image, items, table
from flowrl.report.comparison import JUDGED_AT, Comparison
from flowrl.report.csv import csv_bytes
from flowrl.report.overview import Report
from flowrl.report.protocol import best_over_training_told, calibration_told, protocol
from flowrl.report.style import Picture
from flowrl.report.tables import (
    aggregate_table,
    attention_table,
    best_over_training_table,
    calibration_table,
    dataset_table,
    difference_table,
    improvement_table,
    run_table,
    score_table,
    task_table,
)
from flowrl.report.wording import number

NEVER = 10**9  # rows: the tables of the result are not folded away
LARGE = 200_000  # bytes from which on a figure's data lie beside the page alone

_STYLE = """
.summary { font-size: 1.05rem; background: #f5f7f9; border-left: 4px solid #0b3d91; padding: .7rem .9rem; }
.warning { background: #fdf8ec; border-left: 4px solid #d19a1d; padding: .5rem .9rem; }
nav ul { columns: 18rem; }
nav a, figcaption a { color: #0b5fa5; }
h3 { font-size: .95rem; margin: 1.4rem 0 .4rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(27rem, 100%), 1fr)); gap: 1.2rem 1.6rem; }
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .8rem; }
figure { margin: .6rem 0; min-width: 0; }
figure img { width: 100%; }
.clips img { max-width: 16rem; }
figure h3 { margin: 0 0 .3rem; }
figcaption { font-size: .85rem; color: #5a6775; }
th { cursor: pointer; }
th[aria-sort=ascending]::after { content: " ↑"; }
th[aria-sort=descending]::after { content: " ↓"; }
pre { overflow-x: auto; background: #f5f7f9; padding: .6rem .9rem; font-size: .8rem; }
@media print { details > * { display: block; } nav { display: none; } }
"""

# A cell counts as the first number in it, if it begins with one; else as its text.
_SCRIPT = """
"use strict";
const value = cell => {
  const text = cell.textContent.trim().replace(/,/g, "").replace("\\u2212", "-");
  const found = text.match(/^\\[?([+-]?[0-9]*\\.?[0-9]+)/);
  return found ? parseFloat(found[1]) : text;
};
const before = (a, b) =>
  typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
for (const head of document.querySelectorAll("table:not(.words) th")) {
  head.tabIndex = 0;
  const sort = () => {
    const rising = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const body = head.closest("table").tBodies[0], column = head.cellIndex;
    const rows = [...body.rows].sort((a, b) => before(value(a.cells[column]), value(b.cells[column])));
    body.append(...(rising ? rows : rows.reverse()));
  };
  head.addEventListener("click", sort);
  head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
}
"""


def page(report: Report, overall: Sequence[Picture], pictures: Mapping[str, Sequence[Picture]]) -> str:
    """The whole page.

    Args:
        overall: pictures of all runs together.
        pictures: those of each dataset.
    """
    body = [f"<h1>{escaped(_title(report))}</h1>", f'<p class="summary">{escaped(report.summary())}</p>']
    if report.failures:
        body += ["<h2>Failed runs</h2>", items(report.failures)]
    if len(report.comparisons) > 1:
        body += _overview(report, overall)
    for place, comparison in enumerate(report.comparisons):
        body += _section(comparison, place, pictures[comparison.dataset], alone=len(report.comparisons) == 1)
    if len(report.comparisons) == 1:
        body += _pooled(report, overall)
    body += ["<h2>Protocol</h2>", *(f"<p>{escaped(sentence)}</p>" for sentence in protocol(report))]
    if report.commands:
        body += ["<h2>Commands</h2>", f"<pre>{escaped(chr(10).join(report.commands))}</pre>"]
    return document(_title(report), body, style=_STYLE, script=_SCRIPT)


def _title(report: Report) -> str:
    about = report.comparisons[0].dataset if len(report.comparisons) == 1 else f"{len(report.comparisons)} datasets"
    return f"{', '.join(report.labels)} on {about}"


def _overview(report: Report, pictures: Sequence[Picture]) -> list[str]:
    contents = "".join(
        f'<li><a href="#dataset-{place}">{escaped(comparison.dataset)}</a></li>'
        for place, comparison in enumerate(report.comparisons)
    )
    of_what = "return" if report.score is None else "normalised score"
    parts = [
        f"<nav><ul>{contents}</ul></nav>",
        "<h2>All datasets</h2>",
        f"<p>Mean {of_what}, ± standard deviation over training seeds, when asked for the return in the second column:"
        f" {escaped(JUDGED_AT)}.</p>",
        table(task_table(report)),
    ]
    return [*parts, *_pooled(report, pictures)]


def _pooled(report: Report, pictures: Sequence[Picture]) -> list[str]:
    if not report.pooled:
        return []
    parts = [f"<h3>Scores over {report.pooled_over}</h3>", table(aggregate_table(report))]
    if report.improvement_rows:
        parts += ["<h3>Paired differences and probability of improvement</h3>", table(improvement_table(report))]
    return [*parts, *_figures(pictures)]


def _section(comparison: Comparison, place: int, pictures: Sequence[Picture], *, alone: bool) -> list[str]:
    parts = [
        f'<h2 id="dataset-{place}">{escaped(comparison.dataset)}</h2>',
        *([] if alone else [f"<p>{escaped(comparison.summary())}</p>"]),
    ]
    if warning := comparison.steering_warning():
        parts.append(f'<p class="warning">{escaped(warning)}</p>')
    parts += [
        "<h3>Returns in the dataset</h3>",
        table(dataset_table(comparison)),
        "<h3>Returns of the agents, the last checkpoint of every run</h3>",
        table(score_table(comparison), folded=NEVER),
    ]
    if comparison.difference_rows:
        parts += [
            "<h3>Paired differences (same training seed, same environment seed)</h3>",
            table(difference_table(comparison), folded=NEVER),
        ]
    parts += [
        "<h3>Following the return asked for</h3>",
        f"<p>{escaped(calibration_told(comparison))}</p>",
        table(calibration_table(comparison)),
        *_figures([picture for picture in pictures if not picture.aside]),
        *_clips(comparison),
        *_attention(comparison, [picture for picture in pictures if picture.aside]),
    ]
    if len({row["step"] for row in comparison.curve_rows}) > 1:
        parts += [
            f"<h3>Best over training, asked for {number(comparison.headline)}: not the result</h3>",
            f"<p>{escaped(best_over_training_told(comparison))}</p>",
            table(best_over_training_table(comparison)),
        ]
    return [*parts, "<h3>Cost</h3>", table(run_table(comparison))]


def _figures(pictures: Sequence[Picture]) -> list[str]:
    return ['<div class="figures">', *map(_figure, pictures), "</div>"]


def _attention(comparison: Comparison, pictures: Sequence[Picture]) -> list[str]:
    if not pictures:
        return []
    return [
        "<details><summary>What the agents attend to</summary>",
        "<p>The token from which the action is read, means over heads and the steps of one episode: exp(entropy) of its"
        " weights, their shares on each kind of token, and their sum (1 for softmax).</p>",
        table(attention_table(comparison), folded=NEVER),
        *_figures(pictures),
        "</details>",
    ]


def _figure(picture: Picture) -> str:
    data = csv_bytes(picture.rows)
    source = (
        f'<a download="{escaped(picture.name)}.csv" href="{data_url(data, "text/csv")}">data</a>'
        if len(data) <= LARGE
        else f"(data: {escaped(picture.name)}.csv in the folder data)"
    )
    return (
        f"<figure><h3>{escaped(picture.title)}</h3>{image(picture.svg(), picture.title, 'image/svg+xml')}"
        f"<figcaption>{escaped(picture.caption)} {source}</figcaption></figure>"
    )


def _clips(comparison: Comparison) -> list[str]:
    """Of every label the first seed that was studied, side by side."""
    shown = []
    for label in comparison.labels:
        if (run := comparison.studied(label)) is not None and run.study:
            name = run.study["clip"]["file"]
            if name and (file := run.path / Path(name).name).is_file():
                episode = next(e for e in run.study["episodes"] if e["target"] == run.study["best"])
                told = f"{label}, seed {run.seed}: return {number(episode['return'])}"
                if (steps := run.study["clip"]["steps"]) < episode["length"]:
                    told += f", the first {steps:,} of {episode['length']:,} steps"
                told += "; an episode of its own, in no table"
                moving = image(file.read_bytes(), told, "image/gif")
                shown.append(f"<figure>{moving}<figcaption>{escaped(told)}</figcaption></figure>")
    if not shown:
        return []
    best = number(comparison.dataset_returns["percentiles"][-1])
    return [f"<h3>Clips: asked for {best}, the dataset’s best return</h3>", '<div class="clips">', *shown, "</div>"]
