"""The section on differences: who is better at matched L0, by how much, and whether it is more than noise."""

from strata_sae.pipeline.report.frontier import frontier_figure
from strata_sae.pipeline.report.run_data import Run
from strata_sae.pipeline.report.sections import Section, SectionFigure, SectionTable
from strata_sae.pipeline.runs.compared import read_comparisons, read_stability
from strata_sae.pipeline.runs.comparison_records import (
    Comparisons,
    ComparisonTable,
    DecoderStability,
    PairedDifference,
    Recipe,
    Stability,
    Verdict,
)
from strata_sae.pipeline.runs.judging_records import POPULATIONS, Estimate, PopulationName

Cell = str | float | None

TITLES: dict[PopulationName, str] = {"as_trained": "rows as trained on", "all_but_special": "all but special tokens"}
SAYS: dict[Verdict, str] = {
    "first": "{first} better",
    "second": "{second} better",
    "differ": "differ",
    "not_shown": "not shown",
    "equal": "equal",
    "not_matched": "L0 not matched",
    "no_interval": "no interval",
}
LEDE = (
    "Variants that are equal but for the seed are one here. Intervals are of 95 %, over documents. Only pairs at "
    "matched L0 are ranked: one is better if the paired difference is not 0 over documents, and over training seeds "
    "where there are three or more, after Holm's adjustment over the pairs that are tested."
)
RESULT_HEADS = [
    ("Variant", ""),
    ("Site", ""),
    ("L0", "latents per row"),
    ("L0 from", "latents per row"),
    ("L0 to", "latents per row"),
    ("Matched", "whether L0 is within the tolerance of the target L0"),
    ("R²", "fraction of variance"),
    ("R² from", "fraction of variance"),
    ("R² to", "fraction of variance"),
    ("Seeds", "training seeds"),
    ("R² s.d.", "over training seeds, divided by n - 1"),
    ("L0 s.d.", "over training seeds, divided by n - 1"),
    ("Says", "what the ranked pairs of this population say; one seed: of these very SAEs, not of the recipe"),
]
PAIR_HEADS = [
    ("Variant", ""),
    ("minus", ""),
    ("Site", ""),
    ("R²", "fraction of variance"),
    ("from", "fraction of variance"),
    ("to", "fraction of variance"),
    ("p", "over documents, t"),
    ("R² from, seeds", "95 % interval over training seeds; none below three"),
    ("R² to, seeds", "95 % interval over training seeds; none below three"),
    ("p, Holm", "the larger p, adjusted"),
    ("L0", "latents per row"),
    ("Seeds", "of the one with fewer"),
    ("Verdict", ""),
]
STABILITY_HEADS = [
    ("Variant", ""),
    ("Site", ""),
    ("Seeds", "training seeds"),
    ("MCC", "mean cosine of matched decoder rows, over all pairs of seeds"),
    ("MCC s.d.", "over pairs of seeds, which are not independent"),
    ("Lowest pair", "cosine"),
    ("Random", "MCC of pairs of random dictionaries of this shape"),
    ("Random s.d.", "over the draws"),
    ("Draws", "random pairs"),
    ("Matched", "latents of the first"),
]


def comparisons_section(run: Run) -> Section | None:
    """Differences and their noise; None of a run in which nothing was compared."""
    scores = {f"{sae.variant}@{sae.site}": sae.metrics.fingerprint for sae in run.trained if sae.metrics}
    weights = {f"{sae.variant}@{sae.site}": sae.training.sha256.weights for sae in run.trained if sae.training}
    compared = run.read(run.folder.comparisons, lambda: read_comparisons(run.folder, scores))
    stable = run.read(run.folder.stability, lambda: read_stability(run.folder, weights))
    tables, figures, notes = _differences(run, compared) if compared else ([], [], [])
    if stable and stable.recipes:
        tables.append(_stability(stable.recipes))
    notes += _refused(compared, stable)
    if not tables and not notes:
        return None
    return Section("differences", "What differs, and what is noise", LEDE, tables, figures, notes)


def _refused(compared: Comparisons | None, stable: Stability | None) -> list[str]:
    lines = [f"Not compared: {line}" for line in (compared.refused if compared else [])]
    return lines + [f"Seeds not compared: {line}" for line in (stable.refused if stable else [])]


def _differences(run: Run, compared: Comparisons) -> tuple[list[SectionTable], list[SectionFigure], list[str]]:
    """Two tables for each population, a figure for each site, and what the tables' notes say."""
    tables, notes = [], []
    for population in POPULATIONS:
        of_r2 = [t for t in compared.tables if (t.population, t.metric) == (population, "r2_pooled")]
        of_l0 = [t for t in compared.tables if (t.population, t.metric) == (population, "l0")]
        if not of_r2:
            continue
        l0 = {(table.site, pair.first, pair.second): pair for table in of_l0 for pair in table.pairs}
        rows = [_result(recipe, table) for table in of_r2 for recipe in _ordered(table)]
        caption = f"R² and L0, {TITLES[population]}: {_size(of_r2)}"
        tables.append(_table(f"matched_{population}", caption, RESULT_HEADS, rows))
        every = [(pair, table) for table in of_r2 for pair in table.pairs]
        pairs = [_pair(pair, table, l0) for pair, table in every if pair.verdict != "not_matched"]
        if pairs:
            caption = f"Paired differences, {TITLES[population]}"
            tables.append(_table(f"differences_{population}", caption, PAIR_HEADS, pairs))
        if apart := len(every) - len(pairs):
            notes.append(
                f"{TITLES[population]}: {apart} of {len(every)} pairs have L0 more than 2 % apart and are not at one "
                "target, so they are not ranked; comparisons.json has their differences."
            )
        notes += [f"{table.site}, {TITLES[population]}: {note}" for table in of_r2 for note in table.notes]
    shown = [table for table in compared.tables if (table.population, table.metric) == ("as_trained", "r2_pooled")]
    return (
        tables,
        [frontier_figure(run, table, f"frontier_{place}") for place, table in enumerate(shown, start=1)],
        notes,
    )


def _table(name: str, caption: str, heads: list[tuple[str, str]], rows: list[list[Cell]]) -> SectionTable:
    """A table without the columns that are not known of any row, such as intervals of few documents."""
    known = [place for place in range(len(heads)) if any(row[place] is not None for row in rows)]
    shown = [[row[place] for place in known] for row in rows]
    return SectionTable(name, caption, [heads[place] for place in known], shown)


def _size(tables: list[ComparisonTable]) -> str:
    sizes = dict.fromkeys(f"{table.n_rows:,} rows of {table.n_documents:,} documents" for table in tables)
    return "; ".join(sizes)


def _ordered(table: ComparisonTable) -> list[Recipe]:
    """Those at the target L0 first; then by R2, the best first."""
    return sorted(table.recipes, key=lambda r: (r.is_at_target is False, -(r.value.value or 0.0), r.name))


def _result(recipe: Recipe, table: ComparisonTable) -> list[Cell]:
    matched = {None: "no target", True: "yes", False: "no"}[recipe.is_at_target]
    spread = recipe.value_over_seeds
    return [
        recipe.name,
        table.site,
        *_three(recipe.l0),
        matched,
        *_three(recipe.value),
        spread.n_seeds,
        spread.standard_deviation,
        recipe.l0_over_seeds.standard_deviation,
        _says(recipe, table),
    ]


def _three(estimate: Estimate) -> list[Cell]:
    """The number, and the ends of its interval."""
    interval = estimate.interval
    return [estimate.value, interval.low, interval.high] if interval else [estimate.value, None, None]


def _says(recipe: Recipe, table: ComparisonTable) -> str:
    """Over which others it is shown to be better, by which it is beaten, and from how many seeds that is known."""
    found: dict[str, list[str]] = {"better than": [], "worse than": [], "not shown against": []}
    of_it = [pair for pair in table.pairs if recipe.name in (pair.first, pair.second)]
    for pair in of_it:
        other, winner = pair.second if pair.first == recipe.name else pair.first, _winner(pair)
        if winner is not None:
            found["better than" if winner == recipe.name else "worse than"].append(other)
        elif pair.verdict == "not_shown":
            found["not shown against"].append(other)
    parts = [f"{word} {', '.join(names)}" for word, names in found.items() if names]
    if not parts:
        return "not ranked"
    return "; ".join([*parts, *_mark(min(pair.n_seeds for pair in of_it if pair.verdict != "not_matched"))])


def _winner(pair: PairedDifference) -> str | None:
    return {"first": pair.first, "second": pair.second}.get(pair.verdict)


def _mark(n_seeds: int) -> list[str]:
    """What the number of seeds makes of a verdict; nothing where they had a say."""
    return {1: ["one seed"], 2: ["two seeds"]}.get(n_seeds, [])


def _pair(
    pair: PairedDifference, table: ComparisonTable, l0: dict[tuple[str, str, str], PairedDifference]
) -> list[Cell]:
    seeds = pair.over_seeds.interval if pair.over_seeds else None
    of_l0 = l0.get((table.site, pair.first, pair.second))
    says = SAYS[pair.verdict].format(first=pair.first, second=pair.second)
    tested = pair.verdict in ("first", "second", "not_shown")
    return [
        pair.first,
        pair.second,
        table.site,
        *_three(pair.difference),
        pair.p_documents,
        seeds.low if seeds else None,
        seeds.high if seeds else None,
        pair.p_holm,
        of_l0.difference.value if of_l0 else None,
        pair.n_seeds,
        ", ".join([says, *(_mark(pair.n_seeds) if tested else [])]),
    ]


def _stability(recipes: list[DecoderStability]) -> SectionTable:
    rows: list[list[Cell]] = [
        [
            recipe.recipe,
            recipe.site,
            len(recipe.seeds),
            recipe.mcc.mean,
            recipe.mcc.standard_deviation,
            min(pair.mcc for pair in recipe.pairs),
            recipe.null_mcc.mean,
            recipe.null_mcc.standard_deviation,
            recipe.null_mcc.n_seeds,
            recipe.n_matched,
        ]
        for recipe in recipes
    ]
    caption = "How alike the decoders of training seeds are, beside random dictionaries of the same shape"
    return _table("stability", caption, STABILITY_HEADS, rows)
