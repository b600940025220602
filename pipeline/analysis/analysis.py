"""What `strata analyze` can be asked: each question answers with a table, and with a figure of it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from strata_sae.pipeline.queries.opened import CodedRun


class Answer(NamedTuple):
    """A table, and what plotly draws of it."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    figure: dict[str, Any]
    """A figure of plotly as plain data: `data` and `layout`."""


Question = Callable[[CodedRun, Mapping[str, Any]], Answer]
