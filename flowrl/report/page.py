"""A document as one HTML page that needs no network: tables sort at a click on their head, where scripts may run."""

import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from flowrl.html import data_url, escaped, image, items, table
from flowrl.html import document as html_document
from flowrl.report.csv import csv_bytes
from flowrl.report.document import (
    Clip,
    Clips,
    Commands,
    Detail,
    Document,
    Grid,
    Heading,
    Items,
    Paragraph,
    Part,
    Pictures,
    Verdict,
)
from flowrl.report.style import Picture

CONTENTS = 5  # a page of so many sections has a table of contents
LARGE = 200_000  # bytes; the data of a picture that are larger lie beside the page only

_STYLE = """
.verdict { font-size: 1.05rem; background: var(--panel); border-left: 4px solid var(--accent); padding: .7rem .9rem;
           margin: .8rem 0; }
.verdict p { margin: 0; }
.verdict p + p { font-size: .95rem; margin-top: .4rem; }
.verdict p:first-child { font-weight: 600; }
.warning { background: var(--warn); border-left: 4px solid var(--warn-edge); padding: .5rem .9rem; }
.note, figcaption { font-size: .85rem; color: var(--quiet); }
nav ul { columns: 18rem; }
h3 { font-size: .95rem; margin: 1.4rem 0 .4rem; }
details { margin: .5rem 0; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(27rem, 100%), 1fr));
            gap: 1.2rem 1.6rem; margin-top: 1.2rem; }
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .8rem; }
figure { margin: .6rem 0; min-width: 0; }
figure img { width: 100%; }
figure .title { font-weight: 600; font-size: .95rem; margin: 0 0 .3rem; }
.clips img { max-width: 16rem; }
.clips summary { list-style: none; }
.clips summary::-webkit-details-marker { display: none; }
.clips [open] .still, .clips [open] .play, .clips :not([open]) > summary .stop { display: none; }
tr.marked > * { background: var(--marked); font-weight: 600; }
.scroll tr.marked > th:first-child { background: var(--marked); }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--link); }
th[aria-sort=ascending] button::after { content: " ↑"; }
th[aria-sort=descending] button::after { content: " ↓"; }
pre { overflow-x: auto; background: var(--panel); padding: .6rem .9rem; font-size: .8rem; }
@media print { details > * { display: block; } nav { display: none; } }
"""

# A cell counts as the first number in it, if it begins with one; else as its text.
_SCRIPT = """
"use strict";
const value = cell => {
  const text = cell.textContent.trim().replace(/,/g, "").replace("\\u2212", "-");
  const digits = text.match(/^\\[?([+-]?[0-9]*\\.?[0-9]+)/);
  return digits ? parseFloat(digits[1]) : text;
};
const before = (a, b) =>
  typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
for (const head of document.querySelectorAll("thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const rising = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const body = head.closest("table").tBodies[0], column = head.cellIndex;
    const rows = [...body.rows].sort((a, b) => before(value(a.cells[column]), value(b.cells[column])));
    body.append(...(rising ? rows : rows.reverse()));
  });
}
"""


def page(document: Document) -> str:
    """The whole document; any text in it is escaped."""
    body = [f"<h1>{escaped(document.title)}</h1>", *map(_part, document.opening)]
    if len(document.sections) >= CONTENTS:
        links = (f'<li><a href="#s{n}">{escaped(s.title)}</a></li>' for n, s in enumerate(document.sections))
        body.append(f'<nav aria-label="Contents"><ul>{"".join(links)}</ul></nav>')
    for place, section in enumerate(document.sections):
        body += [f'<h2 id="s{place}">{escaped(section.title)}</h2>', *map(_part, section.parts)]
    return html_document(document.title, body, style=_STYLE, script=_SCRIPT)


def _part(part: Part) -> str:
    match part:
        case Heading(text):
            return f"<h3>{escaped(text)}</h3>"
        case Paragraph(text, tone):
            return f'<p class="{tone}">{escaped(text)}</p>'
        case Verdict(sentences):
            return '<div class="verdict">' + "".join(f"<p>{escaped(one)}</p>" for one in sentences) + "</div>"
        case Items(sentences):
            return items(sentences)
        case Grid(rows, marked):
            return table(rows, folded=None, marked=marked)
        case Pictures(pictures):
            return _side_by_side("pictures", map(_picture, pictures))
        case Clips(title, clips):
            return f"<h3>{escaped(title)}</h3>\n{_side_by_side('clips', map(_clip, clips))}"
        case Commands(lines):
            return f"<pre>{escaped(chr(10).join(lines))}</pre>"
        case Detail(title, parts):
            inside = "\n".join(map(_part, parts))
            return f"<details><summary>{escaped(title)}</summary>\n{inside}\n</details>"


def _side_by_side(kind: str, shown: Iterable[str]) -> str:
    return "\n".join([f'<div class="{kind}">', *shown, "</div>"])


def _picture(picture: Picture) -> str:
    data = csv_bytes(picture.rows)
    source = (
        f'<a download="{escaped(picture.name)}.csv" href="{data_url(data, "text/csv")}">data</a>'
        if len(data) <= LARGE
        else f"(data: {escaped(picture.name)}.csv in the folder data)"
    )
    return (
        f'<figure><p class="title">{escaped(picture.title)}</p>'
        f"{image(picture.svg(), f'{picture.title}: {picture.reading}', 'image/svg+xml')}"
        f"<figcaption>{escaped(picture.caption)} {source}</figcaption></figure>"
    )


def _clip(clip: Clip) -> str:
    """A still that plays when it is opened and stops when it is closed, without any script."""
    still = image(_first_frame(clip.file), f"First frame of {clip.caption}").replace("<img", '<img class="still"', 1)
    moving = image(clip.file.read_bytes(), clip.caption, "image/gif")
    return (
        f'<figure><details><summary>{still}<span class="play">▶ play</span><span class="stop">■ stop</span></summary>'
        f"{moving}</details><figcaption>{escaped(clip.caption)}</figcaption></figure>"
    )


def _first_frame(file: Path) -> bytes:
    still = io.BytesIO()
    with Image.open(file) as moving:
        moving.convert("RGB").save(still, format="PNG")
    return still.getvalue()
