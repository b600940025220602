"""The section about explanations in words: how well they tell where latents fire, and what they are."""

from collections import Counter
from collections.abc import Iterable
from statistics import median

from pydantic import JsonValue

from strata_sae.pipeline.pages.text import masked
from strata_sae.pipeline.report.run_data import Run, Trained
from strata_sae.pipeline.report.sections import Section, SectionFigure, SectionTable
from strata_sae.pipeline.runs.interpretation_records import (
    GOOD_RATING,
    HEADLINE,
    ExplainedLatent,
    InterpretationRecord,
    Scored,
)
from strata_sae.pipeline.runs.migration import JsonObject

SHOWN_LATENTS = 20
"""Of each SAE on the page: the first by number. Latents were drawn, so these are no selection of good ones."""
_CHANCE = 0.5
Explained = list[tuple[Trained, InterpretationRecord]]
Row = list[str | float | None]


def interpretation_section(run: Run) -> Section | None:
    """Scores of explanations, and some of them; None of a run of which nothing was put into words."""
    saes = [sae for site in run.sites for sae in run.at(site)]
    explained = [(sae, sae.interpretation) for sae in saes if sae.interpretation]
    notes = [*_notes(explained), *_published(saes)]
    if not explained and not notes:
        return None
    tables = [_scores(explained), _asked(explained)] if explained else []
    tables += [_latents(place, site, explained) for place, site in enumerate(run.sites, start=1)]
    return Section(
        anchor="interpretation",
        title="Latents in words",
        lede=(
            "A language model explained latents that were drawn from each SAE; another one was shown windows of text "
            "from other documents and said where each explanation fits. Balanced accuracy is 0.5 for guessing. The "
            "lift is what an explanation adds to the latent's token label, which needs no language model. Windows with "
            "and without activity are about equally many here; the population's precision is at the true share of "
            "each. Intervals are of 95 %: over latents, and of one latent over the documents of its windows."
            if explained
            else "Explanations that others published are known of some latents. Nothing here has scored them."
        ),
        tables=[table for table in tables if table.rows],
        figures=[figure for place, site in enumerate(run.sites, start=1) for figure in _figure(place, site, explained)],
        notes=notes,
    )


def _scores(explained: Explained) -> SectionTable:
    """A row for each SAE and score."""
    heads = [
        ("variant", ""),
        ("site", ""),
        ("score", ""),
        ("latents", "scored"),
        ("balanced accuracy", "median over latents"),
        ("from", "95 %"),
        ("to", "95 %"),
        ("token label", "its balanced accuracy"),
        ("lift", "median over latents"),
        ("lift from", "95 %"),
        ("lift to", "95 %"),
        ("precision", "on these windows"),
        ("population precision", "median over latents"),
        ("F1", "median over latents"),
        ("correlation", "median over latents"),
        ("failed", "windows without answer"),
        ("windows", "asked about"),
    ]
    rows = [_score(sae, record, score) for sae, record in explained for score in _scored(record)]
    return SectionTable("interpretation", "How well explanations tell where latents fire.", heads, rows)


def _scored(record: InterpretationRecord) -> list[str]:
    """Names of the scores, in the order in which they occur."""
    return list(dict.fromkeys(name for latent in record.latents for name in latent.scores))


def _score(sae: Trained, record: InterpretationRecord, name: str) -> Row:
    found = [latent.scores[name] for latent in record.latents if name in latent.scores]
    return [
        sae.variant,
        sae.site,
        name,
        sum(one.balanced_accuracy is not None for one in found),
        _median(one.balanced_accuracy for one in found),
        *record.interval(f"{name}_balanced_accuracy"),
        _median(one.token_label for one in found),
        _median(one.lift for one in found),
        *record.interval(f"{name}_lift"),
        _median(one.precision for one in found),
        _median(one.population_precision for one in found),
        _median(one.f1 for one in found),
        _median(one.correlation for one in found),
        sum(one.n_failed for one in found),
        sum(one.n_windows for one in found),
    ]


def _median(values: Iterable[float | None]) -> float | None:
    """As the record's metrics have it: none where fewer than half have a value (`over_latents`)."""
    values = list(values)
    known = [value for value in values if value is not None]
    return median(known) if known and 2 * len(known) >= len(values) else None


def _asked(explained: Explained) -> SectionTable:
    """A row for each SAE: who was asked, what failed, how the explanations were rated."""
    heads = [
        ("variant", ""),
        ("site", ""),
        ("latents", "asked about"),
        ("explained", "latents"),
        ("rated", "latents"),
        ("rating", "median, 1 to 5"),
        ("rated 4 or 5", "share of rated latents"),
        ("ratings failed", "latents"),
        ("explainer", ""),
        ("scorer", ""),
    ]
    rows: list[Row] = []
    for sae, record in explained:
        ratings = [latent.rating for latent in record.latents if latent.rating is not None]
        rows.append(
            [
                sae.variant,
                sae.site,
                len(record.latents),
                sum(latent.explanation is not None for latent in record.latents),
                len(ratings),
                _median(ratings),
                sum(rating >= GOOD_RATING for rating in ratings) / len(ratings) if ratings else None,
                sum(latent.rating_failure is not None for latent in record.latents),
                _model(record.explainer),
                _model(record.scorer),
            ]
        )
    return SectionTable("interpretation_asked", "Who was asked, and what failed.", heads, rows)


def _model(name: str) -> str:
    """A model's name; a server may call its model by the way to its file."""
    return str(masked(name))


def _latents(place: int, site: str, explained: Explained) -> SectionTable:
    """The first latents of each SAE of a site, with their words."""
    heads = [
        ("variant", ""),
        ("latent", ""),
        ("explanation", ""),
        ("detection", "balanced accuracy"),
        ("from", "95 %"),
        ("to", "95 %"),
        ("lift", "over the token label"),
        ("rating", "1 to 5"),
        ("active", "rows"),
    ]
    rows = [_latent(sae, one) for sae, record in explained if sae.site == site for one in _first(record)]
    caption = f"{site}: latents in words, the first {SHOWN_LATENTS} of those drawn from each SAE, by number."
    return SectionTable(f"interpretation_latents_{place}", caption, heads, rows)


def _first(record: InterpretationRecord) -> list[ExplainedLatent]:
    return sorted(record.latents, key=lambda latent: latent.latent)[:SHOWN_LATENTS]


def _latent(sae: Trained, latent: ExplainedLatent) -> Row:
    scored = latent.scores.get(HEADLINE)
    interval = scored.interval if scored else None
    return [
        sae.variant,
        latent.latent,
        latent.explanation or f"(failed: {latent.failure or 'no explanation'})",
        scored.balanced_accuracy if scored else None,
        interval.low if interval else None,
        interval.high if interval else None,
        scored.lift if scored else None,
        latent.rating,
        latent.n_active_rows,
    ]


def _figure(place: int, site: str, explained: Explained) -> list[SectionFigure]:
    """Of each latent the words' balanced accuracy against the token label's; nothing where neither is known."""
    traces: list[JsonObject] = []
    for sae, record in explained:
        known = [
            (latent.latent, scored)
            for latent in record.latents
            if sae.site == site and (scored := latent.scores.get(HEADLINE)) is not None and scored.lift is not None
        ]
        if known:
            traces.append(_points(sae.variant, known))
    if not traces:
        return []
    diagonal: JsonObject = {"type": "scatter", "mode": "lines", "name": "equal", "x": [0.0, 1.0], "y": [0.0, 1.0]}
    layout: JsonObject = {
        "xaxis": {"title": "token label, balanced accuracy", "range": [0, 1.02]},
        "yaxis": {"title": "explanation, balanced accuracy", "range": [0, 1.02]},
        "height": 380,
    }
    caption = (
        f"{site}: detection by the explanation against the token label, a point for each latent, on windows that are "
        "no near misses; above the line the explanation is better."
    )
    return [SectionFigure(f"interpretation_{place}", caption, [*traces, diagonal], layout)]


def _points(variant: str, known: list[tuple[int, Scored]]) -> JsonObject:
    label: list[JsonValue] = [scored.token_label for _, scored in known]
    words: list[JsonValue] = [(scored.token_label or 0.0) + (scored.lift or 0.0) for _, scored in known]
    return {
        "type": "scatter",
        "mode": "markers",
        "variant": variant,
        "x": label,
        "y": words,
        "text": [f"{variant}, latent {latent}" for latent, _ in known],
        "hovertemplate": "<b>%{text}</b><br>token label %{x:.3f}<br>explanation %{y:.3f}<extra></extra>",
    }


def _notes(explained: Explained) -> list[str]:
    notes = []
    for sae, record in explained:
        name = f"{sae.variant} at {sae.site}"
        if record.explainer == record.scorer:
            notes.append(f"{name}: one model explained and scored, so the scores say how far it agrees with itself.")
        for score in _scored(record):
            low, high = record.interval(f"{score}_balanced_accuracy")
            if low is not None and high is not None and low <= _CHANCE <= high:
                notes.append(f"{name}: {score} is at chance: the interval of its balanced accuracy holds 0.5.")
            low, _ = record.interval(f"{score}_lift")
            if low is not None and low <= 0:
                notes.append(f"{name}: by {score} the explanations are not shown to be better than the token labels.")
        failures = Counter(latent.failure for latent in record.latents if latent.failure is not None)
        if failures:
            told = ", ".join(f"{reason} ({n:,})" for reason, n in sorted(failures.items()))
            notes.append(f"{name}: without an explanation: {told}.")
    return notes


def _published(saes: list[Trained]) -> list[str]:
    notes = []
    for sae in saes:
        if sae.published is None:
            continue
        makers = sae.published.makers
        by = f", by {', '.join(makers)}" if makers else ""
        notes.append(
            f"{sae.variant} at {sae.site}: others published explanations of {sae.published.n_explained:,} of "
            f"{sae.published.n_latents:,} latents{by}; nothing here has scored them."
        )
    return notes
