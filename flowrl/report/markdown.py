"""A document as Markdown, for a pull request: tables and all pictures but those of attention."""

import re
from collections.abc import Iterator

from flowrl.html import escaped
from flowrl.report.document import (
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
from flowrl.text import markdown, markdown_table, one_line, printable


def markdown_page(document: Document, folder: str) -> str:
    """The whole document but what is on the page only; any text in it is escaped.

    Args:
        folder: where the pictures' PNG files lie, as a link from the page.
    """
    blocks = [f"# {markdown(document.title)}"]
    blocks += [block for part in document.opening for block in _blocks(part, folder)]
    for section in document.sections:
        blocks.append(f"## {markdown(section.title)}")
        blocks += [block for part in section.parts for block in _blocks(part, folder)]
    return "\n\n".join(blocks) + "\n"


def _blocks(part: Part, folder: str) -> Iterator[str]:
    match part:
        case Heading(text):
            yield f"### {markdown(text)}"
        case Paragraph(text, tone):
            yield f"**{markdown(text)}**" if tone == "warning" else markdown(text)
        case Verdict(sentences):
            first, *others = map(markdown, sentences)
            yield " ".join([f"**{first}**", *others])
        case Items(sentences):
            yield "\n".join(f"- {markdown(sentence)}" for sentence in sentences)
        case Grid(rows):
            yield markdown_table(rows)
        case Pictures(pictures):
            for picture in pictures:
                described = markdown(f"{picture.title}: {picture.reading}")
                alternative = re.sub(r"(?<!\\)([\[\]])", r"\\\1", described)
                yield f"![{alternative}]({folder}/{picture.name}.png)"
                yield f"*{markdown(picture.caption)}*"
        case Commands(lines):
            text = printable("\n".join(lines))
            fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
            yield f"{fence}\n{text}\n{fence}"
        case Detail(title, parts, page_only=False):
            yield f"<details><summary>{escaped(one_line(title))}</summary>"
            for inner in parts:
                yield from _blocks(inner, folder)
            yield "</details>"
        case Clips() | Detail():
            pass
