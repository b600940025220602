"""Every value of every record, as (key, text): made from the records themselves, so no key can be forgotten."""

import json
from collections.abc import Iterator
from typing import Any

from strata_sae.pipeline.report.run_data import Run, Trained
from strata_sae.pipeline.runs.records import LoaderLine

Cells = list[tuple[str, str]]

ELSEWHERE = ("metrics.density_histogram", "metrics.definitions")
"""What the page shows as a figure, or once for all SAEs."""
COUNTED = ("waits", "n_bytes", "steps")
ADDED_UP = tuple(name for name in LoaderLine.model_fields if name.endswith("seconds") or name in COUNTED)
"""Keys of the loader's log whose lines are summed; the others are alike in all lines of one batch size and seed."""


def record_tables(run: Run) -> list[tuple[str, Cells]]:
    """For each record a title and its values, keys in their order."""
    tables = [("environment.json", _cells("environment", run.environment)), ("store.json", _cells("store", run.store))]
    for site in run.sites:
        tables += [(f"loader of {site}", _cells("loader", total)) for total in loader_totals(run.loader.get(site, []))]
    tables += [(f"{sae.variant}@{sae.site}", _of_sae(sae)) for site in run.sites for sae in run.at(site)]
    return [(title, cells) for title, cells in tables if cells]


def loader_totals(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of a loader's log, added up for each batch size and seed; of what is no sum, the last."""
    totals: dict[tuple[int, int], dict[str, Any]] = {}
    for line in lines:
        total = totals.setdefault((line["batch_size"], line["seed"]), {})
        sums = {name: total.get(name, 0) + line[name] for name in ADDED_UP}
        total |= {**line, **sums}
    return list(totals.values())


def _of_sae(sae: Trained) -> Cells:
    records = {
        "config": sae.config,
        "training": sae.training,
        "metrics": {**sae.metrics, "metrics": {name: sae.value(name) for name in sae.metrics.get("metrics", {})}}
        if sae.metrics
        else {},
        "curves": sae.curves[-1] if sae.curves else {},
        "examples": {key: value for key, value in sae.examples.items() if key != "latents"},
    }
    return [cell for name, record in records.items() for cell in _cells(name, record)]


def _cells(prefix: str, value: Any) -> Cells:
    return [(key, text) for key, text in _leaves(prefix, value) if not key.startswith(ELSEWHERE)]


def _leaves(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Dotted keys and their values: text as it is, everything else as JSON; what is null or empty has no value."""
    if isinstance(value, dict):
        for name, item in sorted(value.items()):
            yield from _leaves(f"{key}.{name}", item)
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _leaves(f"{key}.{place}", item)
    elif value is not None:
        yield key, value if isinstance(value, str) else json.dumps(value)
