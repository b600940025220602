"""docs/weaknesses.md cites tests, benchmarks and records that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "weaknesses.md").read_text(encoding="utf-8")


def missing(page: str) -> list[str]:
    """What a page cites in vain."""
    sources = [file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py")]
    defined = set(re.findall(r"^def (test_\w+)\(", "\n".join(sources), re.MULTILINE))
    cited = set(re.findall(r"`(test_\w+)`", page))
    files = set(re.findall(r"`((?:benchmarks|docs|tests)/[\w./]+)`", page))
    return sorted(cited - defined) + sorted(file for file in files if not (ROOT / file).exists())


def test_what_the_page_cites_is_there() -> None:
    assert len(re.findall(r"`test_\w+`", PAGE)) > 60
    assert missing(PAGE) == []
    made_up = "`test_that_nobody_wrote` and `benchmarks/of_nothing.py`"
    assert missing(made_up) == ["test_that_nobody_wrote", "benchmarks/of_nothing.py"], "control"
