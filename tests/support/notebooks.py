"""The executed notebook of docs/, as plain JSON: its code cells, what they printed, and what must be equal again."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

NOTEBOOK = Path(__file__).parents[2] / "docs/handing_over.ipynb"
NUMBER = re.compile(r"(?<![\w.])\d+\.\d+")


class CodeCell(NamedTuple):
    """A code cell and its stored outputs."""

    number: int | None
    """In the order of execution."""
    source: str
    tags: frozenset[str]
    """`stable`: it prints the same on every machine; `close`: but for its last digits; `saelens`: it needs SAELens."""
    printed: str
    shown: dict[str, str]
    """MIME type -> what the last expression was shown as."""
    kinds: frozenset[str]
    """Of outputs: `stream`, `execute_result`, `error`, and `stderr`."""


def code_cells(notebook: dict[str, Any]) -> list[CodeCell]:
    """The code cells of a notebook, in order."""
    return [_cell(cell) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def stored() -> dict[str, Any]:
    """The notebook that is in docs/."""
    found: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return found


def _cell(cell: dict[str, Any]) -> CodeCell:
    outputs = cell["outputs"]
    shown = {kind: "".join(text) for output in outputs for kind, text in output.get("data", {}).items()}
    streams = {output["name"] for output in outputs if output["output_type"] == "stream"}
    return CodeCell(
        cell["execution_count"],
        "".join(cell["source"]),
        frozenset(cell["metadata"].get("tags", [])),
        "".join("".join(output.get("text", [])) for output in outputs),
        shown,
        frozenset({output["output_type"] for output in outputs} | (streams - {"stdout"})),
    )


def differences(cell: CodeCell, printed: str, shown: dict[str, str]) -> list[str]:
    """How what a run gave differs from what is stored, as far as the cell's tags promise that it does not."""
    wrong = []
    if "stable" in cell.tags and printed != cell.printed:
        wrong.append(f"prints {printed!r}, stored is {cell.printed!r}")
    if "close" in cell.tags:
        for now, then in ((printed, cell.printed), (shown.get("text/html", ""), cell.shown.get("text/html", ""))):
            if NUMBER.sub("#", now) != NUMBER.sub("#", then):
                wrong.append(f"prints {now!r}, stored is {then!r}")
            pairs = zip(map(float, NUMBER.findall(now)), map(float, NUMBER.findall(then)), strict=False)
            wrong += [f"{a} is far from the stored {b}" for a, b in pairs if abs(a - b) > 0.1 + 0.1 * abs(b)]
    return wrong
