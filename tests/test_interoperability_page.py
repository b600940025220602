"""docs/interoperability.md is what trying every architecture in every format gives."""

import re
import runpy
from pathlib import Path

import pytest

from strata_sae.pipeline.formats import FORMATS
from strata_sae.pipeline.saes import ARCHITECTURES
from support.page_names import unknown

ROOT = Path(__file__).parents[1]
MAKER = runpy.run_path(str(ROOT / ".ci/interoperability_page.py"))
PAGE = (ROOT / "docs/interoperability.md").read_text(encoding="utf-8")


def test_the_page_is_what_the_code_does() -> None:
    assert MAKER["page"](PAGE) == PAGE, "python .ci/interoperability_page.py writes it anew"


def test_a_table_that_says_otherwise_is_made_anew() -> None:
    """Control."""
    wrong = PAGE.replace("| gated | `gated` |", "| gated | `standard` |")
    assert wrong != PAGE
    assert MAKER["page"](wrong) == PAGE


def test_every_architecture_and_every_format_is_in_the_tables() -> None:
    rows = re.findall(r"^\| ([\w ]+?)(?:, a transcoder)? \|", PAGE, flags=re.MULTILINE)
    assert {row.partition(" ")[0] for row in rows} >= set(ARCHITECTURES)
    read = set(re.findall(r"^\| `(\w+)` \| `[^|]*` \| `[^|]*` \| \w+ \|$", PAGE, flags=re.MULTILINE))
    assert read == {name for name, format in FORMATS.items() if format.read is not None}


def test_what_the_page_names_exists() -> None:
    lines = [
        line
        for block in re.findall(r"^```\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
    ]
    commands = [line.partition(" #")[0].strip() for line in lines if line.startswith("strata ")]
    assert commands
    assert unknown(" ".join(f"`{command}`" for command in commands)) == []
    assert unknown("`strata exprt a`") != [], "control"


def test_a_page_without_its_marks_is_refused() -> None:
    with pytest.raises(SystemExit, match="missing"):
        MAKER["page"](PAGE.replace("<!-- end of import -->", ""))
