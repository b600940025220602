"""What the page says of the batches: mixing from the curves, speed from the loader's log."""

from pathlib import Path

from strata_sae.pipeline.pages.text import UNKNOWN
from strata_sae.pipeline.report.page import write_report
from strata_sae.pipeline.runs.record_files import line_of, read_lines
from strata_sae.pipeline.runs.records import CurveLine, LoaderLine
from support.made_up_records import write_lines
from support.made_up_run import SITES
from support.page_parser import Page
from support.sealing import seal

FIRST, SECOND = SITES


def add_mixing(run: Path, site: str, documents_ratio: float, variance_ratio: float) -> None:
    for folder in run.glob(f"variants/*@{site}"):
        lines = read_lines(folder / "curves.jsonl", CurveLine)
        mixing = {
            "mixing/documents": 900 * documents_ratio,
            "mixing/documents_ratio": documents_ratio,
            "mixing/positions": 511,
            "mixing/positions_ratio": 1.0,
            "mixing/variance_ratio": variance_ratio,
        }
        first = mixing | {"mixing/documents_ratio": documents_ratio * 0.5}
        mixed = [line.with_further(mixing if place else first) for place, line in enumerate(lines)]
        write_lines(folder / "curves.jsonl", mixed)
        seal(folder)


def add_log(run: Path, site: str, seed: int = 0, wait_seconds: float = 0.25) -> None:
    (run / "loader").mkdir(exist_ok=True)
    line = LoaderLine(
        batch_size=2048,
        seed=seed,
        epoch_rows=10**6,
        window_blocks=64,
        perfect_documents=900.0,
        perfect_positions=511.0,
        predicted_variance_ratio=1.17,
        fill_seconds=2.0,
        thread_seconds=4.0,
        decode_seconds=1.0,
        wait_seconds=wait_seconds,
        waits=1,
        n_bytes=10**9,
        seconds=20.0,
        steps=10,
    )
    with open(run / "loader" / f"{site}.jsonl", "ab") as file:
        file.write(line_of(line))


def text_of(run: Path) -> str:
    return " ".join(Page(write_report(run)).text.replace("\N{NARROW NO-BREAK SPACE}", " ").split())


def test_the_page_says_how_batches_were_mixed_and_read(run_folder: Path) -> None:
    add_mixing(run_folder, FIRST, 1.0, 1.21)
    add_log(run_folder, FIRST)
    add_log(run_folder, FIRST, seed=5, wait_seconds=100.0)  # another group's
    with open(run_folder / "loader" / f"{FIRST}.jsonl", "a", encoding="utf-8") as file:
        file.write('{"torn": \n')
    add_log(run_folder, FIRST)
    text = text_of(run_folder)
    assert "How its rows were served" in text
    assert f"{FIRST}2 048 rows, seed 0900 (100 % of a perfect shuffle; first batch 50 %)" in text
    assert "511 (100 % of a perfect shuffle; first batch 100 %)" in text
    assert "1.17 predicted, 1.21 measured500 MB/s25 %0.50 of 40.0 s (stalls: 2)" in text


def test_a_bad_window_shows_beside_a_good_one(run_folder: Path) -> None:
    add_mixing(run_folder, FIRST, 1.0, 1.02)
    add_mixing(run_folder, SECOND, 0.07, 63.5)
    text = text_of(run_folder)
    assert "900 (100 % of a perfect shuffle" in text
    assert "63 (7 % of a perfect shuffle" in text
    # There is no log: the columns of the clock are empty, the others stand.
    assert f"{UNKNOWN} predicted, 63.50 measured{UNKNOWN}{UNKNOWN}{UNKNOWN}" in text


def test_a_run_without_these_records_has_no_such_table(run_folder: Path) -> None:
    page = Page(write_report(run_folder))
    assert "How its rows were served" not in page.text
    assert "Not in this run folder" not in page.text


def test_bytes_per_token_and_the_store_are_on_the_page(run_folder: Path) -> None:
    text = text_of(run_folder)
    assert "Bytes per token1 156 per site" in text
    assert "5b" * 32 in text
