from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from utils.images import write_image
from utils.report import Report

NASTY = "<img src=x onerror=alert(1)>&\"'</table><script>"


class Tags(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def page_of(folder: Path) -> Tags:
    write_image(folder / "a.png", np.zeros((4, 4, 3), np.uint8))
    report = Report(NASTY)
    report.heading(NASTY)
    report.text(NASTY)
    report.table(["", NASTY], [[NASTY, NASTY]])
    report.picture(folder / "a.png", NASTY)
    report.write(folder / "report.html")
    return Tags((folder / "report.html").read_text(encoding="utf-8"))


def test_names_with_html_in_them_stay_text(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    assert page.words.count(NASTY) == 8    # title, heading twice, text, three cells, caption
    assert "script" not in page.tags and page.tags.count("img") == 1
    assert ("alt", NASTY) in page.attributes


def test_page_asks_for_nothing_outside_itself(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert len(sources) == 1 and str(sources[0]).startswith("data:image/png;base64,")
    assert not {"link", "script", "iframe"} & set(page.tags)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.search(r"Content-Security-Policy\" content=\"default-src 'none'; img-src data:;", text)
    assert "url(" not in text and "@import" not in text
