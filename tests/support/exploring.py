"""The app over small runs, asked as a browser would ask it; and vocabularies that mean it harm."""

import contextlib
import html
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.testclient import TestClient

from strata_sae.pipeline.explore.app import Pages, make_app
from strata_sae.pipeline.explore.screen import World
from strata_sae.pipeline.explore.serving import listening
from support import coded_run
from support.made_up_run import HOSTILE

TOKEN, PORT = "a-token", 8340
ROOT = f"http://127.0.0.1:{PORT}/{TOKEN}"
_ENCODABLE = [text for text in HOSTILE if text.isascii() or not re.search("[\ud800-\udfff]", text)]
_LONG = ["x" * 10_000, "\u202e" * 3000, " <b>" * 2500]
HOSTILE_WORDS = [text if n % 2 else f" {text}" for n, text in enumerate([*_ENCODABLE, *_LONG])]
"""Text that ends elements, attributes and styles, runs scripts, turns lines around, or fills a page alone."""


def hostile_words() -> list[str]:
    """As many words as `coded_run` has, all of them hostile but BOS."""
    n_words = len(coded_run.WORDS) - 1
    return ["<bos>", *(f"{HOSTILE_WORDS[n % len(HOSTILE_WORDS)]}{n}" for n in range(n_words))]


def world_in(folder: Path) -> World:
    """The world of the run made in a folder."""
    with contextlib.chdir(folder):
        return World.of([coded_run.opened(folder)])


def client_of(world: World, **options: Any) -> TestClient:
    """Asks the app of a world. options: of starlette's client."""
    return TestClient(make_app(Pages(world, TOKEN), TOKEN, PORT), base_url=f"http://127.0.0.1:{PORT}", **options)


def text_of(page: str) -> str:
    """What a reader sees of a page's main part: no markup, runs of blanks as one."""
    main = page[page.index("<main>") : page.index("</main>")]
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", main)).split())


@contextlib.contextmanager
def served(world: World) -> Iterator[str]:
    """The app at a port of its own, for a browser. Yields its address, which holds the token."""
    opened = listening(None)
    port = opened.getsockname()[1]
    config = uvicorn.Config(make_app(Pages(world, TOKEN), TOKEN, port), log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    running = threading.Thread(target=server.run, args=([opened],), daemon=True)
    running.start()
    yield f"http://127.0.0.1:{port}/{TOKEN}"
    server.should_exit = True
    running.join()
    opened.close()
