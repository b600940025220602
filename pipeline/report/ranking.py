"""Who is ahead at matched L0, in sentences that say no more than comparisons.json does."""

from collections.abc import Sequence

from strata_sae.pipeline.pages.text import show
from strata_sae.pipeline.report.run_data import Run
from strata_sae.pipeline.runs.compared import read_comparisons
from strata_sae.pipeline.runs.comparison_records import Comparisons, ComparisonTable, PairedDifference, Recipe

MOST_TOLD = 2
"""Groups of matched SAEs that the statement speaks of; the section on differences has all."""


def comparisons_of(run: Run) -> Comparisons | None:
    """comparisons.json, if it is of the scores that the page shows."""
    scores = {f"{sae.variant}@{sae.site}": sae.metrics.fingerprint for sae in run.trained if sae.metrics}
    return run.read(run.folder.comparisons, lambda: read_comparisons(run.folder, scores))


def ranked_tables(run: Run) -> list[ComparisonTable]:
    """For each site R2 on the rows as trained on, the only number that is ranked in words."""
    compared = comparisons_of(run)
    found = {table.site: table for table in compared.tables if _is_ranked(table)} if compared else {}
    return [found[site] for site in run.sites if site in found]


def _is_ranked(table: ComparisonTable) -> bool:
    return (table.population, table.metric) == ("as_trained", "r2_pooled")


def ahead(run: Run, site: str) -> list[str]:
    """The SAEs of a site of which none at matched L0 is shown to be better; nothing where none was compared."""
    tables = [table for table in ranked_tables(run) if table.site == site]
    return [name for table in tables for group in _groups(table)[:1] for name in _unbeaten(group, _pairs(table, group))]


def ranking(run: Run) -> list[str]:
    """Sentences on who is better at matched L0, the groups at the target L0 first."""
    tables = ranked_tables(run)
    told = [_of_group(table, group) for table in tables for group in _groups(table)]
    if tables and not told:
        return ["No two SAEs at one site have matched L0, so none is ranked."]
    further = len(told) - MOST_TOLD
    more = [f"{further} more groups of matched L0 are compared below."] if further > 0 else []
    return told[:MOST_TOLD] + more


def _groups(table: ComparisonTable) -> list[list[Recipe]]:
    """Recipes that matched pairs join, two or more together; those at the target L0 first."""
    groups = {recipe.name: [recipe] for recipe in table.recipes}
    for pair in table.pairs:
        one, two = groups[pair.first], groups[pair.second]
        if pair.verdict != "not_matched" and one is not two:
            joined = one + two
            groups |= {recipe.name: joined for recipe in joined}
    found = {id(group): group for group in groups.values() if len(group) > 1}
    return sorted(found.values(), key=lambda group: not all(recipe.is_at_target for recipe in group))


def _pairs(table: ComparisonTable, group: Sequence[Recipe]) -> list[PairedDifference]:
    names = {recipe.name for recipe in group}
    return [pair for pair in table.pairs if {pair.first, pair.second} <= names and pair.verdict != "not_matched"]


def _unbeaten(group: Sequence[Recipe], pairs: list[PairedDifference]) -> list[str]:
    """The best first."""
    beaten = {pair.second if pair.verdict == "first" else pair.first for pair in pairs if _has_winner(pair)}
    kept = [recipe for recipe in group if recipe.name not in beaten]
    return [recipe.name for recipe in sorted(kept, key=lambda recipe: -(recipe.value.value or 0.0))]


def _has_winner(pair: PairedDifference) -> bool:
    return pair.verdict in ("first", "second")


def _of_group(table: ComparisonTable, group: list[Recipe]) -> str:
    pairs, n = _pairs(table, group), len(group)
    where = f"At {table.site}, {_l0(group)}:"
    if all(pair.verdict in ("no_interval", "equal") for pair in pairs):
        alike = all(pair.verdict == "equal" for pair in pairs)
        return f"{where} {n} SAEs {'are equal' if alike else 'cannot be ranked, since the noise is not known'}."
    best = _unbeaten(group, pairs)
    won = [pair for pair in pairs if _has_winner(pair) and best[0] in (pair.first, pair.second)]
    if len(best) == 1 and len(won) == n - 1:
        r2 = show(next(recipe.value.value for recipe in group if recipe.name == best[0]), "fraction of variance")
        others = "the other one" if n == 2 else f"each of the {n - 1} others"
        return f"{where} {best[0]} has a higher R² ({r2}) than {others}, by more than noise{_seeds(won)}."
    if len(best) == n:
        return f"{where} no difference in R² between {n} SAEs is more than noise{_seeds(pairs)}."
    names = f"{', '.join(best[:-1])} and {best[-1]}" if len(best) > 1 else best[0]
    return f"{where} no SAE is shown to have a higher R² than {names}{_seeds(pairs)}."


def _l0(group: list[Recipe]) -> str:
    """The L0 of a group, as a range where it is one."""
    shown = [show(recipe.l0.value, "latents per row") for recipe in sorted(group, key=lambda r: r.l0.value or 0.0)]
    return f"L0 {shown[0]}" if shown[0] == shown[-1] else f"L0 {shown[0]} to {shown[-1]}"


def _seeds(pairs: list[PairedDifference]) -> str:
    """How little is known over training seeds; nothing where they had a say."""
    n_seeds = min(pair.n_seeds for pair in pairs)
    return {1: " (one seed)", 2: " (two seeds)"}.get(n_seeds, "")
