"""docs/handing_over.ipynb was executed in order and without errors, holds no path of a machine, and runs here as well.

`tests/peers/test_handing_over.py` executes it as Jupyter does, with the cell for SAELens.
"""

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from support.notebooks import code_cells, differences, stored

CELLS = code_cells(stored())
PATHS = re.compile(r"(?<![\w.])/(home|root|tmp|work|usr|var|opt|mnt|Users|private)/|[A-Z]:\\\\|site-packages|/\.venv")


def test_it_was_executed_in_order_and_nothing_failed() -> None:
    assert [cell.number for cell in CELLS] == list(range(1, len(CELLS) + 1))
    assert frozenset().union(*(cell.kinds for cell in CELLS)) == {"stream", "execute_result"}, "no error, no warning"
    assert sum("stable" in cell.tags for cell in CELLS) >= 4
    assert [cell.number for cell in CELLS if "saelens" in cell.tags] == [len(CELLS)]
    assert [kind for cell in CELLS for kind in cell.shown if kind != "text/plain"] == ["text/html", "image/svg+xml"]


def test_it_holds_no_path_of_a_machine_and_no_time() -> None:
    text = json.dumps(stored(), ensure_ascii=False)
    assert PATHS.findall(text) == []
    assert stored()["metadata"].keys() == {"kernelspec", "language_info"}
    assert all(cell["metadata"].keys() <= {"tags"} for cell in stored()["cells"])
    assert all(map(PATHS.search, ("see /home/somebody/x", "in lib/site-packages/y"))), "the control"


def test_its_cells_run_and_print_what_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in CELLS:
        if "saelens" in cell.tags:
            continue
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(cell.source, names)
        shown = {"text/html": str(names[cell.source.split()[-1]])} if "text/html" in cell.shown else {}
        assert differences(cell, printed.getvalue(), shown) == [], cell.source
    assert (tmp_path / "handed/topk/cfg.json").is_file()
    assert names["losses"]["clean"] < names["losses"]["topk"] + 0.05 < names["losses"]["no latents"]
    assert names["losses"]["topk"] < 1.2 * names["losses"]["clean"]


def test_control_other_outputs_are_seen() -> None:
    (stable,) = [cell for cell in CELLS if cell.number == 2]
    assert differences(stable, stable.printed, {}) == []
    assert differences(stable, stable.printed + "x", {}) != []
    (close,) = [cell for cell in CELLS if cell.number == 3]
    assert differences(close, close.printed, {}) == []
    assert differences(close, close.printed.replace("0.", "3."), {}) != []
    assert differences(close, close.printed.replace("loss", "l"), {}) == differences(close, close.printed, {})
