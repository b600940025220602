"""The section on how alike decoder rows are, against what is left of the variance, and on what training changed."""

from collections.abc import Iterator

from pydantic import JsonValue, ValidationError

from strata_sae.pipeline.report.run_data import Run, Trained
from strata_sae.pipeline.report.sections import Section, SectionFigure, SectionTable
from strata_sae.pipeline.schedules import Schedule

COSINE = "decoder_max_cosine_mean"
N_PLACES = 41
"""Points of a schedule (count)."""
LEDE = (
    "Largest cosine of each decoder row with another, averaged, against the share of the variance that is left (FVU). "
    "Down and to the left is better. It can be compared at matched L0 only: more active latents leave less."
)
HEADS = [
    ("Variant", ""),
    ("Site", ""),
    ("L0", "latents per row"),
    ("FVU", "fraction of variance"),
    ("max cos, mean", "cosine"),
    ("max cos, p95", "cosine"),
]


def redundancy_section(run: Run) -> Section | None:
    """Redundancy against FVU at each site, and the schedules; None of a run that has neither."""
    found = [sae for site in run.sites for sae in run.at(site) if sae.value(COSINE) is not None]
    figures = [_redundancy(run, site, place) for place, site in enumerate(run.sites, start=1) if _known(run, site)]
    figures += _schedules(run)
    if not figures:
        return None
    rows: list[list[str | float | None]] = [
        [sae.variant, sae.site, sae.value("l0"), _fvu(sae), sae.value(COSINE), sae.value("decoder_max_cosine_p95")]
        for sae in found
    ]
    tables = [SectionTable("redundancy", "Redundancy of decoders", HEADS, rows)] if rows else []
    return Section("redundancy", "Redundancy and schedules", LEDE, tables, figures, [])


def _fvu(sae: Trained) -> float | None:
    """Scores of before FVU have R2."""
    fvu, r2 = sae.value("fvu"), sae.value("r2_pooled")
    return 1 - r2 if fvu is None and r2 is not None else fvu


def _known(run: Run, site: str) -> list[Trained]:
    return [sae for sae in run.at(site) if sae.value(COSINE) is not None and _fvu(sae) is not None]


def _redundancy(run: Run, site: str, place: int) -> SectionFigure:
    """A point for each SAE."""
    hover = "<b>%{text}</b><br>cosine %{x:.3f}<br>FVU %{y:.4f}<extra></extra>"
    return SectionFigure(
        f"redundancy_{place}",
        f"{site}: FVU against the mean largest decoder cosine",
        [
            {
                "type": "scatter",
                "variant": sae.variant,
                "x": [sae.value(COSINE)],
                "y": [_fvu(sae)],
                "text": [sae.variant],
                "hovertemplate": hover,
            }
            for sae in _known(run, site)
        ],
        {"xaxis": {"title": "mean largest decoder cosine"}, "yaxis": {"title": "FVU"}},
    )


def _schedules(run: Run) -> list[SectionFigure]:
    """What the settings change through training, each over its largest value; nothing where all stay as they are."""
    configs = {sae.variant: sae.config for sae in reversed(run.trained) if sae.config}
    found = [
        (variant, f"{variant}: {name}", schedule)
        for variant in run.variants
        if variant in configs
        for name, schedule in _scheduled({**configs[variant].sae.further()}, "")
        + [
            line
            for term, settings in configs[variant].objective.items()
            for line in _scheduled(settings.further(), f"{term}/")
        ]
    ]
    if not found:
        return []
    places = [place / (N_PLACES - 1) for place in range(N_PLACES)]
    shares: list[JsonValue] = [*places]
    figure = SectionFigure(
        "schedules",
        "Settings that change through training, each over its largest value",
        [
            {
                "type": "scatter",
                "mode": "lines",
                "variant": variant,
                "x": shares,
                "y": [*_relative([schedule.at(place) for place in places])],
                "text": [name] * N_PLACES,
                "hovertemplate": "<b>%{text}</b><br>%{x:.0%} of training<br>%{y:.3f}<extra></extra>",
            }
            for variant, name, schedule in found
        ],
        {"xaxis": {"title": "share of training", "tickformat": ".0%"}, "yaxis": {"title": "over its largest value"}},
    )
    return [figure]


def _scheduled(settings: dict[str, JsonValue], prefix: str) -> list[tuple[str, Schedule]]:
    return [(f"{prefix}{key}", schedule) for key, value in settings.items() for schedule in _schedule(value)]


def _schedule(value: JsonValue) -> Iterator[Schedule]:
    """The schedule that a setting is, if it is one: another setting may have a start and an end, too."""
    if isinstance(value, dict) and {"start", "end"} <= value.keys():
        try:
            yield Schedule.model_validate(value)
        except ValidationError:
            return


def _relative(values: list[float]) -> list[float]:
    largest = max(abs(value) for value in values) or 1.0
    return [value / largest for value in values]
