"""Can everybody read a report: names of pictures, headings, tables, contrast in the light and in the dark."""

import base64
import re
from itertools import pairwise

import pytest
from made_up_runs import load, made_up_study, make_run
from parsed_page import Page

from flowrl.html import DARK, LIGHT
from flowrl.report import Report, write_report
from flowrl.report.style import IN_THE_DARK, styles

TEXTS, GROUNDS = ("ink", "quiet", "link"), ("paper", "panel", "marked", "good", "warn", "bad")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The text of a report with clips and maps."""
    root = tmp_path_factory.mktemp("accessible")
    studies = {agent: made_up_study(flows=agent == "flow") for agent in ("flow", "dt")}
    runs = [make_run(root / f"{a}-seed{s}", a, s) for a in ("flow", "dt", "bc") for s in (0, 1)]
    write_report(Report.of(load(*runs, studies=studies), commands=["a command"]), root / "out")
    return (root / "out/report.html").read_text()


@pytest.fixture(scope="module")
def page(written):
    return Page(written)


def named(page, *names):
    return [(tag, attributes) for tag, attributes in page.tags if tag in names]


def test_the_page_names_its_language_and_its_main_part(page):
    assert named(page, "html")[0][1]["lang"] == "en"
    assert len(named(page, "main")) == len(named(page, "title")) == 1


def test_headings_are_in_order(page):
    levels = [int(tag[1]) for tag, _ in named(page, "h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(deeper <= level + 1 for level, deeper in pairwise(levels))


def test_pictures_say_in_words_what_is_seen_in_them(page):
    texts = [attributes["alt"] for _, attributes in named(page, "img")]
    assert len(texts) > 10
    assert all(re.search(r"\d", text) for text in texts), "the numbers, not the axes"
    assert any("flow returns 14.5" in text and "dt returns 17.5" in text for text in texts)
    assert any("bc, which takes no target, returns 17.5" in text for text in texts)
    assert any("The last token of flow puts its largest weight, 8.3 % on return 7 in layer 1" in text for text in texts)
    assert len(set(texts)) == len(texts)


def test_every_table_has_heads_of_columns_and_rows(page):
    assert {attributes["scope"] for _, attributes in named(page, "th")} == {"col", "row"}
    assert all("scope" in attributes for _, attributes in named(page, "th"))
    rows, heads = len(named(page, "tr")), sum(a["scope"] == "row" for _, a in named(page, "th"))
    assert rows - heads == len(named(page, "table")), "a row of column heads each, every other row with its own head"


def test_what_can_be_pressed_is_a_button_a_link_or_a_summary(written, page):
    assert len(named(page, "summary")) == len(named(page, "details"))
    assert not [tag for tag, attributes in page.tags if "tabindex" in attributes or "onclick" in attributes]
    assert "tabIndex" not in written
    assert 'createElement("button")' in written


def test_every_link_leads_somewhere_in_the_page(page):
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert all(link.startswith("data:") or link[1:] in ids for link in page.links)


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_black_and_white_is_that_of_the_guidelines():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("ground", GROUNDS)
@pytest.mark.parametrize("text", TEXTS)
def test_text_stands_out_from_what_is_behind_it(colours, text, ground):
    assert contrast(colours[text], colours[ground]) >= 4.5


def test_lines_of_pictures_stand_out_from_the_page():
    for style in styles([f"agent {i}" for i in range(6)]).values():
        assert contrast(style["color"], LIGHT["paper"]) >= 3
        assert contrast(IN_THE_DARK[style["color"]], DARK["paper"]) >= 3


def test_every_colour_of_the_page_is_one_of_the_two_palettes(written):
    style = re.search("<style>(.*?)</style>", written, re.S)[1]
    assert set(re.findall("#[0-9a-f]{3,6}", style)) == {*LIGHT.values(), *DARK.values()}
    assert LIGHT.keys() == DARK.keys()
    assert set(re.findall(r"var\(--([\w-]+)\)", style)) <= LIGHT.keys()


def test_pictures_change_with_the_page(page):
    drawn = [link for link in page.links if link.startswith("data:image/svg+xml")]
    assert drawn
    for link in drawn:
        svg = base64.b64decode(link.partition("base64,")[2]).decode()
        assert "@media (prefers-color-scheme: dark)" in svg
        body = svg.partition("</style>")[2]
        assert not re.search("(fill|stroke): #", body), "every colour has its counterpart in the dark"
        assert not re.search("fill: (white|var\\(--cffffff)", body), "no background"
