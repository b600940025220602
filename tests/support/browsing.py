"""A page in a real browser, and everything that went wrong on it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect, sync_playwright

CHROMIUM = os.environ.get("STRATA_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),  # it looks for its makers' hosts otherwise
]
LONGEST_MS = 300_000
"""What takes longer hangs: a step of the slowest busy machine seen took 20 s. Nothing is measured by it."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # Whoever asks for these tests (make browser) wants them run: a browser that is not there fails them.
    assert CHROMIUM is not None, "no chromium on the PATH, and STRATA_CHROMIUM is not set"
    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=LONGEST_MS)
        yield opened
        opened.close()


DRAWN = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"
"""Done once two frames were drawn: what came into view in the first is on the page after the second."""
expect.set_options(timeout=LONGEST_MS)


class Watched:
    """A page and everything that went wrong on it."""

    def __init__(self, browser: Any, path: Path | str, width: int = 1280) -> None:
        """path: a file, or the address of a page."""
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.set_default_timeout(LONGEST_MS)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("dialog", lambda dialog: self.errors.append(f"dialog {dialog.message}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.url = path if isinstance(path, str) else path.resolve().as_uri()
        self.page.goto(self.url)

    def scroll_through(self) -> None:
        height = self.page.evaluate("document.documentElement.scrollHeight")
        for top in range(0, height, 600):
            self.page.evaluate(f"scrollTo({{top: {top}, behavior: 'instant'}})")
            self.page.evaluate(DRAWN)


@pytest.fixture
def watch(browser: Any) -> Iterator[Any]:
    opened: list[Watched] = []

    def open_page(path: Path | str, **options: Any) -> Watched:
        opened.append(Watched(browser, path, **options))
        return opened[-1]

    yield open_page
    for watched in opened:
        watched.page.close()


class Opened:
    """A tab that reaches nothing but one address, and what went wrong in it."""

    def __init__(self, browser: Any, root: str, **options: Any) -> None:
        self.root = root
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self.tab = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}).new_page()
        self.tab.set_default_timeout(LONGEST_MS)
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.tab.on("dialog", lambda dialog: self.errors.append(dialog.message))
        self.tab.route("**/*", self._reach)

    def _reach(self, route: Any) -> None:
        if route.request.url.startswith(self.root):
            route.continue_()
        else:
            self.elsewhere.append(route.request.url)
            route.abort()

    def at(self, path: str) -> Any:
        answer = self.tab.goto(self.root + path)
        assert answer.status == 200
        assert len(answer.body()) <= 200_000
        return self.tab


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """Opens tabs, in which nothing may go wrong."""
    tabs: list[Opened] = []

    def open_tab(root: str, **options: Any) -> Opened:
        tabs.append(Opened(browser, root, **options))
        return tabs[-1]

    yield open_tab
    for one in tabs:
        assert (one.errors, one.elsewhere) == ([], [])
        one.tab.context.close()
