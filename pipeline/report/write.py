"""Stage 4: a run folder -> report.html and results.csv."""

from pathlib import Path

from strata_sae.pipeline.report.page import render
from strata_sae.pipeline.report.results import results_csv
from strata_sae.pipeline.report.run_data import read_run
from strata_sae.pipeline.runs import RunFolder, write_bytes


def write_report(run_folder: Path, title: str | None = None) -> Path:
    """Write report.html (self-contained) and results.csv; returns the page's path.

    Raises: CheckpointError if nothing has been trained in the folder.
    """
    run, folder = read_run(run_folder), RunFolder(run_folder)
    write_bytes(folder.results, results_csv(run).encode("utf-8"))
    write_bytes(folder.report, render(run, title).encode("utf-8"))
    return folder.report
