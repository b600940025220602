"""Every value of every record, as (key, text): made from the records themselves, so no key can be forgotten."""

import json
from collections.abc import Iterator

from pydantic import JsonValue

from strata_sae.pipeline.report.run_data import Run, Trained
from strata_sae.pipeline.runs.migration import JsonObject
from strata_sae.pipeline.runs.records import LoaderLine, Record

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


def loader_totals(lines: list[LoaderLine]) -> list[LoaderLine]:
    """The lines of a loader's log, added up for each batch size and seed; of what is no sum, the last."""
    totals: dict[tuple[int, int], LoaderLine] = {}
    for line in lines:
        key = (line.batch_size, line.seed)
        before = totals.get(key)
        sums = {name: getattr(before, name) + getattr(line, name) for name in ADDED_UP} if before else {}
        totals[key] = line.model_copy(update=sums)
    return list(totals.values())


def _of_sae(sae: Trained) -> Cells:
    metrics = _data(sae.metrics)
    if sae.metrics is not None:
        metrics["metrics"] = {name: measured.value for name, measured in sae.metrics.metrics.items()}
    examples = {key: value for key, value in _data(sae.examples).items() if key != "latents"}
    curves = sae.curves[-1] if sae.curves else None
    return [
        *_cells("config", sae.config),
        *_cells("training", sae.training),
        *_cells("metrics", metrics),
        *_cells("curves", curves),
        *_cells("examples", examples),
    ]


def _data(record: Record | None) -> JsonObject:
    return {} if record is None else record.model_dump(mode="json")


def _cells(prefix: str, record: Record | JsonObject | None) -> Cells:
    data = record if isinstance(record, dict) else _data(record)
    return [(key, text) for key, text in _leaves(prefix, data) if not key.startswith(ELSEWHERE)]


def _leaves(key: str, value: JsonValue) -> Iterator[tuple[str, str]]:
    """Dotted keys and their values: text as it is, everything else as JSON; what is null or empty has no value."""
    if isinstance(value, dict):
        for name, item in sorted(value.items()):
            yield from _leaves(f"{key}.{name}", item)
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _leaves(f"{key}.{place}", item)
    elif value is not None:
        yield key, value if isinstance(value, str) else json.dumps(value)
