"""docs/coverage.md: all 68 rows are there, each with a verdict, and every test, command, preset and key exists."""

import re
from pathlib import Path

import pytest

from support.page_names import quoted, unknown
from test_architecture_page import names_in, texts

ROOT = Path(__file__).parents[1]
PAGE = texts("docs/coverage.md")
PARTS = ("judging", "handing over", "exploring", "interpreting")


def rows(first: str) -> list[list[str]]:
    """The cells of the table's rows whose number matches."""
    lines = [line for line in PAGE.splitlines() if re.match(rf"\| {first} \|", line)]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def missing_tests(text: str) -> list[str]:
    """Tests in backticks that no file has."""
    found = [name.split("::") for name in quoted(text) if re.fullmatch(r"tests/[\w/]+\.py(::\w+)?", name)]
    return ["::".join(node) for node in found if not _is_there(*node)]


def _is_there(path: str, test: str | None = None) -> bool:
    return (ROOT / path).is_file() and (test is None or test in names_in(ROOT / path))


def test_every_row_is_there_once_and_in_order() -> None:
    assert [int(row[0]) for row in rows(r"\d+")] == list(range(1, 69))
    assert [row[0] for row in rows(r"D\d+")] == [f"D{number}" for number in range(1, 12)]
    assert {len(row) for row in rows(r"\d+")} == {5}
    assert {len(row) for row in rows(r"D\d+")} == {3}


@pytest.mark.parametrize("row", rows(r"\d+"), ids=lambda row: row[0])
def test_a_row_shows_what_works_and_names_the_part_to_come(row: list[str]) -> None:
    _, _, verdict, shown, deviates = row
    assert verdict in ("works", "in part", "not yet")
    if verdict != "not yet":
        assert quoted(shown)
    if verdict != "works":
        assert any(part in deviates for part in PARTS)


def test_every_test_command_preset_and_key_exists() -> None:
    assert len([name for name in quoted(PAGE) if "::" in name]) > 60
    assert missing_tests(PAGE) == []
    assert unknown(PAGE) == []


def test_control_what_does_not_exist_is_seen() -> None:
    wrong = ["`tests/kernels/test_ties.py::test_nothing`", "`tests/kernels/test_tie.py`"]
    assert missing_tests(" ".join(wrong)) == [name.strip("`") for name in wrong]
    assert unknown("`training.kept` `strata fetch` `configs/presets/seed005.yaml`") == [
        "training.kept", "strata fetch", "configs/presets/seed005.yaml"]  # fmt: skip
