"""HTML pages in one file: everything inside them, every text escaped, readable on a phone, in the dark and without
scripts."""

import base64
import html
import re
from collections.abc import Iterable, Mapping, Sequence

from flowrl.text import printable

FOLDED = 24  # a table of more rows is folded away
_LEFT = ' class="left"'

# The colours of a page by their names in CSS, where the reader's system is light and where it is dark.
LIGHT = {
    "paper": "#ffffff",
    "panel": "#f3f6f9",
    "marked": "#e3edfb",
    "good": "#eff8f1",
    "warn": "#fdf6e3",
    "bad": "#fdf0ef",
    "ink": "#1c2733",
    "quiet": "#55616e",
    "link": "#0b5fa5",
    "rule": "#dde3e9",
    "edge": "#8793a0",
    "accent": "#0b3d91",
    "good-edge": "#3a7d44",
    "warn-edge": "#b98309",
    "bad-edge": "#b3261e",
}
DARK = {
    "paper": "#14191f",
    "panel": "#1e252d",
    "marked": "#213450",
    "good": "#1b2b20",
    "warn": "#332a15",
    "bad": "#35201f",
    "ink": "#e4e9ee",
    "quiet": "#a7b3bf",
    "link": "#7db8f0",
    "rule": "#333d47",
    "edge": "#76828f",
    "accent": "#7aa7ff",
    "good-edge": "#5fbf74",
    "warn-edge": "#d9a83c",
    "bad-edge": "#ef7f76",
}

_STYLE = """
body { margin: 1.5rem auto; max-width: 66rem; padding: 0 1.2rem; background: var(--paper); color: var(--ink);
       font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; margin: 0 0 .8rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--rule);
     overflow-wrap: anywhere; }
a { color: var(--link); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .22rem .7rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
.left { text-align: left; }
thead th { white-space: normal; color: var(--quiet); font-weight: 600; border-bottom-color: var(--edge);
           vertical-align: bottom; }
tbody th { font-weight: inherit; background: var(--paper); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.scroll th:first-child { position: sticky; left: 0; background: var(--paper); }
.together { white-space: nowrap; }
table.words td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
table.words td:first-child { color: var(--quiet); white-space: nowrap; vertical-align: top; }
img { max-width: 100%; height: auto; display: block; }
ul { margin: .3rem 0; padding-left: 1.2rem; }
summary { cursor: pointer; color: var(--link); }
@media (max-width: 600px) {
  body { padding: 0 .8rem; }
  th, td { padding: .22rem .45rem; }
  tbody th, .scroll .left { white-space: normal; }
  .scroll td.left { min-width: 6rem; }
  .together { display: block; }
  table.words td:first-child { white-space: normal; }
}
"""


def document(title: str, body: Iterable[str], *, style: str = "", script: str = "") -> str:
    """A whole page.

    Args:
        body: HTML, in order.
        style: CSS added to that of every page; `var(--ink)` is the colour of that name in `LIGHT` and `DARK`.
        script: JavaScript, run once the page is loaded.
    """
    end = f"<script>{script}</script>\n" if script else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(title)}</title><style>\n{colours(':root', LIGHT, DARK)}{_STYLE}{style}</style></head>\n"
        "<body><main>\n" + "\n".join(body) + f"\n</main>\n{end}</body></html>\n"
    )


def colours(whose: str, light: Mapping[str, str], dark: Mapping[str, str]) -> str:
    """CSS that names colours, for light and for dark systems.

    Args:
        whose: the element that has them, and all inside it.
    """
    by_day, by_night = (" ".join(f"--{name}: {colour};" for name, colour in one.items()) for one in (light, dark))
    return (
        f"{whose} {{ color-scheme: light dark; {by_day} }}\n"
        f"@media (prefers-color-scheme: dark) {{ {whose} {{ {by_night} }} }}\n"
    )


def table(rows: Sequence[Sequence[str]], *, folded: int | None = FOLDED, marked: int | None = None) -> str:
    """A table of text, header first; the first cell of a row names the row.

    Args:
        folded: a table of more rows is folded away; None never does.
        marked: which row below the header stands out.
    """
    header, *body = rows
    of_words = [place > 0 and any(re.match("[A-Za-z]", row[place]) for row in body) for place in range(len(header))]
    head = "".join(
        f'<th scope="col"{_LEFT * left}>{escaped(cell)}</th>' for cell, left in zip(header, of_words, strict=True)
    )
    lines = "".join(_line(row, of_words, place == marked) for place, row in enumerate(body))
    whole = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
    if folded is None or len(body) <= folded:
        return whole
    return f"<details><summary>{len(body):,} rows</summary>{whole}</details>"


def _line(row: Sequence[str], of_words: Sequence[bool], marked: bool) -> str:
    cells = "".join(f"<td{_LEFT * left}>{_cell(cell)}</td>" for cell, left in zip(row[1:], of_words[1:], strict=True))
    return f'<tr{" class=marked" if marked else ""}><th scope="row">{_cell(row[0])}</th>{cells}</tr>'


def _cell(cell: str) -> str:
    """A cell's text: an interval in it is not broken over two lines, a name with slashes may be."""
    breakable = escaped(cell).replace("/", "/<wbr>")
    return re.sub(r"\[[^\[\]]*\]", r'<span class="together">\g<0></span>', breakable)


def items(sentences: Iterable[str]) -> str:
    """A list."""
    return "<ul>" + "".join(f"<li>{escaped(sentence)}</li>" for sentence in sentences) + "</ul>"


def image(content: bytes, alternative: str, kind: str = "image/png") -> str:
    """A picture inside the page."""
    return f'<img alt="{escaped(alternative)}" src="{data_url(content, kind)}">'


def data_url(content: bytes, kind: str) -> str:
    """A file inside the page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def escaped(text: str) -> str:
    """A text as HTML."""
    return html.escape(printable(text), quote=True)
