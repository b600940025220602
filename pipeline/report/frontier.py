"""The figure of R2 against L0, with what is not known of either."""

from strata_sae.pipeline.report.matched_l0 import kind_of
from strata_sae.pipeline.report.run_data import Run
from strata_sae.pipeline.report.sections import SectionFigure
from strata_sae.pipeline.runs.comparison_records import ComparisonTable, Recipe
from strata_sae.pipeline.runs.judging_records import Estimate
from strata_sae.pipeline.runs.migration import JsonObject


def frontier_figure(run: Run, table: ComparisonTable, name: str) -> SectionFigure:
    """R2 against L0: a point for each recipe with its intervals, small ones for its seeds, a line along each sweep."""
    kinds: dict[str, list[Recipe]] = {}
    for recipe in table.recipes:
        kinds.setdefault(kind_of(run, recipe.name) or recipe.name, []).append(recipe)
    traces: list[JsonObject] = []
    for of_kind in kinds.values():
        if len(of_kind) > 1:
            along = sorted(of_kind, key=lambda recipe: recipe.l0.value or 0.0)
            line = _points([recipe.l0.value for recipe in along], [recipe.value.value for recipe in along])
            traces.append(
                {**line, "mode": "lines", "variant": along[0].name, "line": {"width": 1}, "hoverinfo": "skip"}
            )
    for recipe in table.recipes:
        seeds = [sae for sae in table.saes if sae.recipe == recipe.name]
        if len(seeds) > 1:
            points = _points([sae.l0.value for sae in seeds], [sae.value.value for sae in seeds])
            names: list[str] = [f"seed {sae.seed}" for sae in seeds]
            marker: JsonObject = {"size": 4, "opacity": 0.6}
            traces.append({**points, "mode": "markers", "variant": recipe.name, "marker": marker, "text": [*names]})
        point = _points([recipe.l0.value], [recipe.value.value])
        bars: JsonObject = {"error_x": _bar(recipe.l0), "error_y": _bar(recipe.value)}
        traces.append({**point, **bars, "mode": "markers", "variant": recipe.name, "text": [recipe.name]})
    caption = (
        f"{table.site}: R² against L0 on rows as trained on. Bars: 95 % intervals over documents; small points: "
        "training seeds; lines: variants of one sweep. Where the bars of two SAEs overlap, they may still differ."
    )
    layout: JsonObject = {"xaxis": {"title": "L0: active latents per row"}, "yaxis": {"title": "R² (pooled, held out)"}}
    return SectionFigure(name, caption, traces, layout)


def _points(xs: list[float | None], ys: list[float | None]) -> JsonObject:
    return {"type": "scatter", "x": [*xs], "y": [*ys]}


def _bar(estimate: Estimate) -> JsonObject:
    if estimate.interval is None or estimate.value is None:
        return {"visible": False}
    up, down = estimate.interval.high - estimate.value, estimate.value - estimate.interval.low
    return {"type": "data", "symmetric": False, "array": [up], "arrayminus": [down], "thickness": 1, "width": 3}
