"""A report as one HTML file that holds its pictures, asks for nothing outside itself, and shows names from the data as text."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from utils.files import whole_file

# Nothing but the pictures and the style inside the file may be loaded, even where something foreign had slipped in.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff; }}
h1, h2 {{ line-height: 1.2; }}
h2 {{ margin-top: 2.5rem; border-bottom: 1px solid #ccc; }}
table {{ border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }}
th, td {{ padding: 0.3rem 0.8rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; white-space: normal; overflow-wrap: anywhere; }}
img {{ max-width: 100%; height: auto; }}
figure {{ margin: 1rem 0; }}
figcaption {{ color: #555; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


class Report:
    """Collects headings, text, tables and pictures. All text is escaped: a file name with HTML in it stays text."""

    def __init__(self, title: str):
        self.title = title
        self._parts: list[str] = []

    def heading(self, text: str) -> None:
        """Start a section."""
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Add a table; the first column is text, the others are numbers."""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
        self._parts.append(f"<table>\n<tr>{head}</tr>\n{body}</table>")

    def picture(self, path: str | Path, caption: str) -> None:
        """Put a PNG file into the page."""
        data = base64.b64encode(Path(path).read_bytes()).decode("ascii")
        text = html.escape(caption)
        self._parts.append(f'<figure><img src="data:image/png;base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>')

    def write(self, path: str | Path) -> None:
        """Write the page; the file appears whole or not at all."""
        with whole_file(path) as partial:
            page = PAGE.format(title=html.escape(self.title), body="\n".join(self._parts))
            # A name of a file need not be Unicode.
            partial.write_text(page, encoding="utf-8", errors="backslashreplace")
