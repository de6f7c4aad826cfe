"""What a report consists of, whatever it is written as: sections of sentences, tables, pictures and details."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flowrl.report.style import Picture


@dataclass(frozen=True)
class Heading:
    """A title within a section."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Sentences in a row."""

    text: str
    tone: Literal["plain", "summary", "warning"] = "plain"


@dataclass(frozen=True)
class Items:
    """Sentences one below the other."""

    sentences: Sequence[str]


@dataclass(frozen=True)
class Grid:
    """A table of text, header first."""

    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side where there is room."""

    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Clip:
    """A moving picture in a GIF file."""

    file: Path
    caption: str


@dataclass(frozen=True)
class Clips:
    """Clips side by side."""

    clips: Sequence[Clip]


@dataclass(frozen=True)
class Commands:
    """Lines to type, as they are."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Detail:
    """Parts that only the page holds: Markdown has no room for them."""

    title: str
    parts: Sequence["Part"]
    folded: bool = True
    """Hidden until the reader opens it; else below a heading."""


Part = Heading | Paragraph | Items | Grid | Pictures | Clips | Commands | Detail


@dataclass(frozen=True)
class Section:
    """A titled part of a document, in its table of contents."""

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    opening: Sequence[Part]
    """What stands before the first section."""
    sections: Sequence[Section]
