"""Execute docs/handing_over.ipynb in an empty folder, and put its outputs into it.

    .venv-peers/bin/python .ci/execute_notebook.py      # `make notebook`; tests say if a stable output is another one

What is written depends on the notebook and its outputs alone: no times, versions or paths.
"""

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs/handing_over.ipynb"


def executed(folder: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of a run in `folder`. Raises: CellExecutionError."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # A bar of another library, which would be drawn with more packages than the notebook needs.
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
    client = NotebookClient(notebook, timeout=600, record_timing=False, resources={"metadata": {"path": str(folder)}})
    client.execute()
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    return notebook


def joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Pieces of one stream as one: how a run cuts them is chance."""
    kept: list[nbformat.NotebookNode] = []
    for output in outputs:
        if kept and output.output_type == kept[-1].output_type == "stream" and output.name == kept[-1].name:
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="strata-notebook-") as name:
        nbformat.write(executed(Path(name)), NOTEBOOK)
