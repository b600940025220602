"""Several runs side by side: which scores may be compared, which settings differ, which SAEs no other one beats."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.pages.text import UNKNOWN
from strata_sae.pipeline.report.results import definitions, metric_names
from strata_sae.pipeline.report.run_data import Run, Trained, read_run
from strata_sae.pipeline.runs.evaluation_records import Metrics

NOT_SETTINGS = ("name", "report")
"""Keys of a config that change no number."""


class Population(NamedTuple):
    """The rows that scores were measured on: only scores of equal populations can be compared."""

    store_id: str
    split: str
    filters: str
    n_rows: int
    """They are the first ones that pass the filters, so that equal numbers of rows are equal rows."""
    n_documents: int

    @classmethod
    def of(cls, metrics: Metrics) -> "Population":
        """That of these scores."""
        filters = json.dumps(metrics.filters.model_dump(mode="json"), sort_keys=True)
        return cls(metrics.store_id, metrics.split, filters, metrics.n_rows, metrics.n_documents)


class Entry(NamedTuple):
    """An SAE of one of the runs."""

    run: int
    """Place of its run."""
    sae: Trained
    population: int | None
    """Place of its population; None where it was not scored."""
    on_frontier: bool
    """Whether no SAE of its site and population has a higher R2 at no higher L0, or an equal R2 at a lower one."""


class Comparison(NamedTuple):
    """Runs, and what of them can be compared."""

    runs: list[Run]
    names: list[str]
    """Of the runs; where two have the same, with a number behind it."""
    populations: list[Population]
    """In the order in which they occur."""
    sites: dict[str, list[Entry]]
    """Site -> SAEs: those of one variant together, by run."""

    def clashes(self, site: str) -> list[str]:
        """What is not the same in the populations of a site, by the names of `Population`; empty if all are equal."""
        here = {self.populations[entry.population] for entry in self.sites[site] if entry.population is not None}
        return [name for name in Population._fields if len({getattr(population, name) for population in here}) > 1]


def read_comparison(folders: Sequence[Path]) -> Comparison:
    """Read two runs or more. Raises: ConfigError for one that is named twice; CheckpointError for one that is none."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError(f"RUN: {', '.join(map(str, folders))} name a run twice; name each once")
    return compare([read_run(folder) for folder in folders])


def compare(runs: list[Run]) -> Comparison:
    """These runs side by side."""
    populations = list(
        dict.fromkeys(Population.of(sae.metrics) for run in runs for sae in run.trained if sae.metrics is not None)
    )
    sites: dict[str, list[Entry]] = {}
    for site in dict.fromkeys(site for run in runs for site in run.sites):
        of_site = [(place, sae) for place, run in enumerate(runs) for sae in run.at(site)]
        variants = list(dict.fromkeys(sae.variant for _, sae in of_site))
        of_site.sort(key=lambda pair: (variants.index(pair[1].variant), pair[0]))
        entries = [Entry(place, sae, _place(sae, populations), False) for place, sae in of_site]
        best = frontier(entries)
        sites[site] = [entry._replace(on_frontier=number in best) for number, entry in enumerate(entries)]
    return Comparison(runs, _names(runs), populations, sites)


def frontier(entries: Sequence[Entry]) -> set[int]:
    """Places of the SAEs that no other one of the same population beats in R2 and L0."""
    scored = [(number, entry, *_scores(entry)) for number, entry in enumerate(entries)]
    known = [(number, entry, r2, l0) for number, entry, r2, l0 in scored if r2 is not None and l0 is not None]
    return {
        number
        for number, entry, r2, l0 in known
        if not any(
            other.population == entry.population and r2 <= its_r2 and l0 >= its_l0 and (r2, l0) != (its_r2, its_l0)
            for _, other, its_r2, its_l0 in known
        )
    }


def _scores(entry: Entry) -> tuple[float | None, float | None]:
    return entry.sae.value("r2_pooled"), entry.sae.value("l0")


def _place(sae: Trained, populations: list[Population]) -> int | None:
    return populations.index(Population.of(sae.metrics)) if sae.metrics else None


def _names(runs: list[Run]) -> list[str]:
    names = [run.name for run in runs]
    return [f"{name} ({at + 1})" if names.count(name) > 1 else name for at, name in enumerate(names)]


def differing_settings(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """(key, value in each run) of the settings that are not the same in all runs; a dash where a run lacks the key.

    A variant that only some runs have is one line. The model and the text are left out where one run names none: it
    reads a store that is there, and the scores say whether it is the same.
    """
    configs = [{key: value for key, value in run.config.items() if key not in NOT_SETTINGS} for run in comparison.runs]
    variants = [_variants(run) for run in comparison.runs]
    shared = set.intersection(*variants)
    leaves = [dict(_leaves("", config)) for config in configs]
    lines = []
    for key in dict.fromkeys(key for of_run in leaves for key in of_run):
        first, _, rest = key.partition(".")
        if first in ("model", "corpus") and any(config.get(first) is None for config in configs):
            continue
        if first == "variants" and rest.partition(".")[0] not in shared:
            continue
        values = [of_run.get(key, UNKNOWN) for of_run in leaves]
        if len(set(values)) > 1:
            lines.append((key, values))
    for name in dict.fromkeys(name for run in comparison.runs for name in run.variants):
        if name not in shared and len({name in of_run for of_run in variants}) > 1:
            lines.append((f"variants.{name}", ["there" if name in of_run else UNKNOWN for of_run in variants]))
    return lines


def _variants(run: Run) -> set[str]:
    """Names of the variants of the run's config."""
    variants = run.config.get("variants")
    return set(variants) if isinstance(variants, dict) else set()


def _leaves(key: str, value: JsonValue) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _leaves(f"{key}.{name}" if key else str(name), item)
    else:
        yield key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def unequal_definitions(runs: Iterable[Run]) -> list[str]:
    """Metrics that not all runs define, or measure, in the same way: their numbers cannot be compared."""
    found: dict[str, set[tuple[str, str]]] = {}
    for run in runs:
        for name, entry in definitions(run).items():
            found.setdefault(name, set()).add((entry.unit, entry.definition))
    return [name for name, told in found.items() if len(told) > 1]


def metrics_of(runs: Sequence[Run]) -> list[str]:
    """Every metric that any SAE of the runs has, the known ones first."""
    return list(dict.fromkeys(name for run in runs for name in metric_names(run)))
