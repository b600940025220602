"""Every kind of figure in a real browser: drawn, at both widths and in both schemes, without an error or a request."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from strata_sae.pipeline.commands.app import app
from support.coded_run import SITE

pytestmark = pytest.mark.browser
KINDS = {
    "cofiring --latent 3": ".barlayer .point",
    "cofiring --least 2": ".scatterlayer .point",
    "matches --other wide": ".scatterlayer .trace",
    "splits --other wide": ".shapelayer path",
    "clusters --least 0.2": ".treemaplayer .slice",
    "examples --latent 3": ".example",
}


@pytest.fixture(scope="module")
def pages(asked_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for number, given in enumerate(KINDS):
        out = tmp_path_factory.mktemp(f"answer{number}")
        arguments = ["--quiet", "analyze", f"{asked_run}/topk@{SITE}", *given.split(), "--out", str(out)]
        assert CliRunner().invoke(app, arguments).exit_code == 0
        [made[given]] = out.rglob("*.html")
    return made


@pytest.mark.parametrize("given", KINDS)
def test_a_figure_is_drawn(watch: Any, pages: dict[str, Path], given: str) -> None:
    for width in (1280, 400):
        watched = watch(pages[given], width=width)
        watched.page.emulate_media(color_scheme="dark" if width == 400 else "light")
        # Attached, not visible: a level line has no height.
        watched.page.locator(KINDS[given]).first.wait_for(state="attached")
        watched.scroll_through()
        assert watched.errors == []
        assert watched.requests == [watched.url]
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
