"""A page as a test reads it."""

from html.parser import HTMLParser

VOID = ("meta", "img", "br", "wbr")  # tags that are never closed


class Page(HTMLParser):
    """Notes tags that are opened and not closed, all tags with their attributes, links, texts and cells of tables."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.texts, self.cells = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)
        if "td" in self.open or "th" in self.open:
            self.cells[-1] += text
