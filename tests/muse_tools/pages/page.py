"""What the tests read a page with."""

from __future__ import annotations

import html.parser


class Page(html.parser.HTMLParser):
    """A page whose tags all close.

    Attributes:
        tags: names and attributes.
        text: pieces between tags.
        tables: rows of entries of each table, an entry being its text.
        ids: of the elements.
    """

    VOID = {"meta", "br", "link", "img"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.tables, self.ids, self.under = [], [], {}
        self._heading = ""
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if "id" in attributes:
            self.ids.append(attributes["id"])
            self._heading = attributes["id"]
        if tag == "table":
            self.tables.append([])
            self.under.setdefault(self._heading, []).append(self.tables[-1])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            entry = self.tables[-1][-1][-1]
            self.tables[-1][-1][-1] = f"{entry} {data}".strip()


def self_contained(text):
    """Checks that a page is well-formed and needs nothing from elsewhere."""
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "img"}
        assert not {"src", "onclick", "onerror"} & set(attributes)
        if "href" in attributes:
            assert attributes["href"].removeprefix("#") in page.ids
        if tag == "svg" and attributes["role"] != "none":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
    assert "http" not in text.replace("http://www.w3.org", "")
    assert "url(" not in text and "@import" not in text
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text
    return page
