"""HTML pages in one file: everything inside them, every text escaped, readable on a phone and without scripts."""

import base64
import html
from collections.abc import Iterable, Sequence

FOLDED = 24  # a table of more rows is folded away

_STYLE = """
body { margin: 1.5rem auto; max-width: 66rem; padding: 0 1.2rem; background: #fff; color: #1c2733;
       font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .8rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; padding-top: .8rem; border-top: 1px solid #e3e8ee;
     overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .22rem .7rem; text-align: right; border-bottom: 1px solid #edf0f4; white-space: nowrap; }
th { color: #5a6775; font-weight: 600; border-bottom-color: #c9d2dc; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.scroll th:first-child, .scroll td:first-child { position: sticky; left: 0; background: #fff; }
table.words td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
table.words td:first-child { color: #5a6775; white-space: nowrap; vertical-align: top; }
img { max-width: 100%; height: auto; display: block; }
ul { margin: .3rem 0; padding-left: 1.2rem; }
summary { cursor: pointer; color: #0b5fa5; }
@media (max-width: 600px) {
  body { padding: 0 .8rem; }
  th, td { padding: .22rem .45rem; }
  .scroll th { white-space: normal; }
  .scroll td:first-child { white-space: normal; min-width: 6rem; }
  table.words td:first-child { white-space: normal; }
}
"""


def document(title: str, body: Iterable[str], *, style: str = "", script: str = "") -> str:
    """A whole page.

    Args:
        body: HTML, in order.
        style: CSS added to that of every page.
        script: JavaScript, run once the page is loaded.
    """
    end = f"<script>{script}</script>\n" if script else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(title)}</title><style>{_STYLE}{style}</style></head>\n<body>\n"
        + "\n".join(body)
        + f"\n{end}</body></html>\n"
    )


def table(rows: Sequence[Sequence[str]], *, folded: int | None = FOLDED) -> str:
    """A table of text, header first.

    Args:
        folded: a table of more rows is folded away; None never does.
    """
    header, *body = rows
    head = "".join(f"<th>{escaped(cell)}</th>" for cell in header)
    lines = "".join("<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in row) + "</tr>" for row in body)
    whole = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
    if folded is None or len(body) <= folded:
        return whole
    return f"<details><summary>{len(body):,} rows</summary>{whole}</details>"


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
    return html.escape(text, quote=True)
