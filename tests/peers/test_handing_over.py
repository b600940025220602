"""docs/handing_over.ipynb, executed top to bottom in an empty folder, gives the stable outputs that it holds."""

import runpy
from pathlib import Path

import pytest

from support.notebooks import NOTEBOOK, code_cells, differences, stored

pytestmark = pytest.mark.peers
ROOT = NOTEBOOK.parents[1]


def test_it_runs_and_prints_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # `strata_sae` is imported from this checkout, as everywhere in these tests.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    make = runpy.run_path(str(ROOT / ".ci/execute_notebook.py"))
    found = code_cells(make["executed"](tmp_path))
    expected = code_cells(stored())
    assert [cell.source for cell in found] == [cell.source for cell in expected]
    assert [cell.kinds for cell in found] == [cell.kinds for cell in expected], "no error, and nothing on stderr"
    for now, then in zip(found, expected, strict=True):
        assert differences(then, now.printed, now.shown) == [], then.source
    assert any("saelens" in cell.tags and "True" in cell.printed for cell in found)
    assert (tmp_path / "handed/batch_topk/sae_weights.safetensors").is_file()
