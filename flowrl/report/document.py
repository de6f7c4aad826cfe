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
    tone: Literal["plain", "note", "warning"] = "plain"


@dataclass(frozen=True)
class Verdict:
    """The result in a few sentences: the first is what a reader takes home."""

    sentences: Sequence[str]


@dataclass(frozen=True)
class Items:
    """Sentences one below the other."""

    sentences: Sequence[str]


@dataclass(frozen=True)
class Grid:
    """A table of text, header first."""

    rows: Sequence[Sequence[str]]
    marked: int | None = None
    """Which row below the header stands out."""


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
    """Clips side by side below a heading: Markdown has no room for them."""

    title: str
    clips: Sequence[Clip]


@dataclass(frozen=True)
class Commands:
    """Lines to type, as they are."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Detail:
    """Parts that are hidden until the reader opens them."""

    title: str
    parts: Sequence["Part"]
    page_only: bool = False
    """Markdown has no room for it."""


Part = Heading | Paragraph | Verdict | Items | Grid | Pictures | Clips | Commands | Detail


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
