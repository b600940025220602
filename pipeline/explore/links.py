"""Addresses of screens. Templates take them from here alone, so that one template serves the app and static pages.

Every method gives None where there is no such page, as in static pages, of which only some are written.
"""

from collections.abc import Collection
from urllib.parse import quote, unquote, urlencode

Query = str | int | None


class Links:
    """Addresses below the app's root, such as /<token>. A value of a query that is None or empty is left out."""

    is_static = False
    """Whether pages are files: nothing then answers a form."""

    def __init__(self, root: str) -> None:
        self.root = root

    def overview(self) -> str | None:
        """All SAEs of all runs."""
        return self.to("/")

    def run(self, run: str) -> str | None:
        """A run's part of the overview."""
        return self.to("/", fragment=f"run-{run}")

    def sae(self, run: str, sae: str, **query: Query) -> str | None:
        """The latents of an SAE. query: sort, order, filters and page of the table."""
        return self.to(f"/{_part(run)}/{_part(sae)}", query)

    def latent(self, run: str, sae: str, latent: int, **query: Query) -> str | None:
        """One latent."""
        return self.to(f"/{_part(run)}/{_part(sae)}/{int(latent)}", query)

    def search(self, q: str = "", **query: Query) -> str | None:
        """Latents by the text of tokens, in all SAEs."""
        return self.to("/search", {"q": q, **query})

    def compare(self, run: str, a: str, b: str, **query: Query) -> str | None:
        """Two SAEs of a run."""
        return self.to(f"/{_part(run)}/compare/{_part(a)}/{_part(b)}", query)

    def document(self, run: str, document: int, row: int | None = None, **query: Query) -> str | None:
        """A document, at a row of the store."""
        return self.to(f"/{_part(run)}/document/{int(document)}", {"row": row, **query})

    def map(self, run: str, sae: str, **query: Query) -> str | None:
        """The latents of an SAE on a plane."""
        return self.to(f"/{_part(run)}/{_part(sae)}/map", query)

    def prompt(self, run: str, asked: str | None = None, **query: Query) -> str | None:
        """The screen of prompts; of a text that was read, by its name."""
        return self.to(f"/{_part(run)}/prompt" + ("" if asked is None else f"/{_part(asked)}"), query)

    def to(self, address: str, query: dict[str, Query] | None = None, fragment: str = "") -> str | None:
        """Where a page is, by its address below the root."""
        given = {key: value for key, value in (query or {}).items() if value not in (None, "")}
        return self.root + address + (f"?{urlencode(given)}" if given else "") + _fragment(fragment)


class StaticLinks(Links):
    """Relative links between files, from one page to those that are written with it."""

    is_static = True

    def __init__(self, here: str, written: Collection[str]) -> None:
        """here: address of the page that holds the links; written: addresses of all pages."""
        super().__init__("../" * (file_of(here).count("/")))
        self.written = written

    def to(self, address: str, query: dict[str, Query] | None = None, fragment: str = "") -> str | None:
        """A file; what the query asks for is not told apart, but that a document's row is a place in its page."""
        if address not in self.written:
            return None
        row = (query or {}).get("row")
        return self.root + quote(file_of(address)) + (f"#row-{row}" if row is not None else _fragment(fragment))


def file_of(address: str) -> str:
    """The file of a page, relative to the folder of all: /demo/topk/5 -> demo/topk/5.html, / -> index.html."""
    return f"{unquote(address).strip('/') or 'index'}.html"


def _part(name: str) -> str:
    return quote(name, safe="@")


def _fragment(name: str) -> str:
    return f"#{quote(name)}" if name else ""
