"""The section on the other population: the same scores over all rows but those of special tokens."""

from strata_sae.pipeline.pages.text import count
from strata_sae.pipeline.report.results import IN_TABLE, LABELS
from strata_sae.pipeline.report.run_data import Run, Trained
from strata_sae.pipeline.report.sections import Section, SectionTable
from strata_sae.pipeline.runs.evaluation_records import PopulationScores

LEDE = (
    "The results again, over all held-out rows but those of BOS and special tokens: also those that training's filters "
    "drop, such as attention sinks, for which no SAE of this run was trained here. Never compare a number of one "
    "population with one of the other."
)


def populations_section(run: Run) -> Section | None:
    """A table over `all_but_special`; None where no SAE was scored on it."""
    found = [
        (sae, sae.metrics.all_but_special)
        for site in run.sites
        for sae in run.at(site)
        if sae.metrics and sae.metrics.all_but_special
    ]
    if not found:
        return None
    names = [name for name in IN_TABLE if any(name in scores.metrics for _, scores in found)]
    units = {name: scores.metrics[name].unit for name in names for _, scores in found if name in scores.metrics}
    heads = [("Variant", ""), ("Site", ""), ("rows", "count"), ("documents", "count")]
    heads += [(LABELS.get(name, name), units[name]) for name in names]
    table = SectionTable(
        "results_all_but_special", "all_but_special", heads, [_row(sae, scores, names) for sae, scores in found]
    )
    return Section("populations", "All but special tokens", LEDE, [table], [], [])


def _row(sae: Trained, scores: PopulationScores, names: list[str]) -> list[str | float | None]:
    values = [scores.metrics[name].value if name in scores.metrics else None for name in names]
    return [sae.variant, sae.site, scores.n_rows, scores.n_documents, *values]


def scored_rows(run: Run) -> dict[str, str]:
    """For each site the population of its table of results, in words."""
    found = {site: [sae.metrics for sae in run.at(site) if sae.metrics] for site in run.sites}
    return {
        site: "; ".join(dict.fromkeys(f"{count(m.n_rows)} rows of {count(m.n_documents)} documents" for m in metrics))
        for site, metrics in found.items()
        if metrics
    }
