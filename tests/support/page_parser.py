"""A report page, parsed as a browser would."""

from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """Elements with their attributes, visible text, and the content of every script and style."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, dict[str, str | None], str]] = []
        self.text = ""
        self._inside: str | None = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        assert len(attrs) == len(dict(attrs))
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = tag
            self.raw.append((tag, dict(attrs), ""))

    def handle_endtag(self, tag):
        self._inside = None if tag == self._inside else self._inside

    def handle_data(self, data):
        if self._inside:
            tag, attrs, text = self.raw[-1]
            self.raw[-1] = (tag, attrs, text + data)
        else:
            self.text += data

    def policy(self) -> dict[str, str]:
        found = [a["content"] for tag, a in self.elements if tag == "meta" and a.get("http-equiv")]
        assert len(found) == 1
        return dict(part.split(" ", 1) for part in found[0].split("; "))
