"""A document as one HTML page that needs no network; tables sort at a click on their head."""

from collections.abc import Iterable

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
)
from flowrl.report.style import Picture

CONTENTS = 5  # a page of so many sections has a table of contents
LARGE = 200_000  # bytes; the data of a picture that are larger lie beside the page only

_STYLE = """
.summary { font-size: 1.05rem; background: #f5f7f9; border-left: 4px solid #0b3d91; padding: .7rem .9rem; }
.warning { background: #fdf8ec; border-left: 4px solid #d19a1d; padding: .5rem .9rem; }
nav ul { columns: 18rem; }
nav a, figcaption a { color: #0b5fa5; }
h3 { font-size: .95rem; margin: 1.4rem 0 .4rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(27rem, 100%), 1fr));
            gap: 1.2rem 1.6rem; }
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
  const digits = text.match(/^\\[?([+-]?[0-9]*\\.?[0-9]+)/);
  return digits ? parseFloat(digits[1]) : text;
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


def page(document: Document) -> str:
    """The whole document; any text in it is escaped."""
    body = [f"<h1>{escaped(document.title)}</h1>", *map(_part, document.opening)]
    if len(document.sections) >= CONTENTS:
        links = (f'<li><a href="#s{n}">{escaped(s.title)}</a></li>' for n, s in enumerate(document.sections))
        body.append(f"<nav><ul>{''.join(links)}</ul></nav>")
    for place, section in enumerate(document.sections):
        body += [f'<h2 id="s{place}">{escaped(section.title)}</h2>', *map(_part, section.parts)]
    return html_document(document.title, body, style=_STYLE, script=_SCRIPT)


def _part(part: Part) -> str:
    match part:
        case Heading(text):
            return f"<h3>{escaped(text)}</h3>"
        case Paragraph(text, tone):
            return f'<p class="{tone}">{escaped(text)}</p>'
        case Items(sentences):
            return items(sentences)
        case Grid(rows):
            return table(rows, folded=None)
        case Pictures(pictures):
            return _side_by_side("pictures", map(_picture, pictures))
        case Clips(clips):
            return _side_by_side("clips", map(_clip, clips))
        case Commands(lines):
            return f"<pre>{escaped(chr(10).join(lines))}</pre>"
        case Detail(title, parts, folded):
            inside = "\n".join(map(_part, parts))
            if folded:
                return f"<details><summary>{escaped(title)}</summary>\n{inside}\n</details>"
            return f"<h3>{escaped(title)}</h3>\n{inside}"


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
        f"<figure><h3>{escaped(picture.title)}</h3>{image(picture.svg(), picture.title, 'image/svg+xml')}"
        f"<figcaption>{escaped(picture.caption)} {source}</figcaption></figure>"
    )


def _clip(clip: Clip) -> str:
    moving = image(clip.file.read_bytes(), clip.caption, "image/gif")
    return f"<figure>{moving}<figcaption>{escaped(clip.caption)}</figcaption></figure>"
