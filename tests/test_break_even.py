"""docs/break_even.md: its tables are what the script prints, and what it calls measured is in the log."""

import runpy
from math import inf, isclose
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "break_even.py"))
Case = SCRIPT["Case"]


def test_the_page_holds_the_scripts_output() -> None:
    page = (ROOT / "docs" / "break_even.md").read_text(encoding="utf-8")
    assert page.endswith(SCRIPT["output"]() + "\n"), "paste the output of benchmarks/break_even.py into the page's end"


def test_what_is_called_measured_is_in_the_log() -> None:
    log = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
    quotes = [number.origin for number in SCRIPT["NUMBERS"].values()]
    measured = [quote for quote in quotes if quote not in ("assumed", "list price")]
    assert len(measured) == 2
    for quote in (*measured, *SCRIPT["DEMO_QUOTES"]):
        assert quote in log, quote


@pytest.mark.parametrize("sites", [1, 8])
@pytest.mark.parametrize("storage", ["scratch", "own", "spinning", "object"])
@pytest.mark.parametrize("name", SCRIPT["MODELS"])
def test_the_number_of_passes_is_where_the_costs_cross(name: str, storage: str, sites: int) -> None:
    case = Case(*SCRIPT["MODELS"][name], 1e9, sites, 0.5, storage=storage)
    passes = case.passes()
    if passes == inf:
        assert case.reading >= case.model
        return
    assert case.stored(passes) < passes * case.model
    before = passes - 1
    assert case.stored(before) >= before * case.model or isclose(case.stored(before), before * case.model)
    assert passes >= 2  # one pass never pays


def test_a_case_by_hand() -> None:
    """8B, one site halfway, 1e9 tokens, bfloat16, own disks for a month."""
    case = Case(8e9, 4096, 1e9, 1, 0.5)
    assert case.model == pytest.approx(2 * 8e9 * 0.5 * 1e9 / 396e12 * 2.5 / 3600)
    assert case.n_bytes == 1e9 * (2 * 4096 + 4 + 17)
    assert case.keeping == pytest.approx(case.n_bytes / 1e9 * 0.0021)
    assert case.sae_seconds == pytest.approx(1e9 * 6 * 8 * 4096**2 / 198e12)
    assert case.reading == 0.0  # training takes longer than reading 8.2 TB at 3 GB/s
