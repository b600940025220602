"""The section about first-letter absorption: both forms, with both kinds of probes, each with its spread over seeds."""

from typing import Literal

from strata_sae.pipeline.report.run_data import Run, Trained
from strata_sae.pipeline.report.sections import Section, SectionFigure, SectionTable
from strata_sae.pipeline.runs.absorption_records import PROBES, AbsorptionOfProbes, AbsorptionRecord, not_measured
from strata_sae.pipeline.runs.chain import read_absorption
from strata_sae.pipeline.runs.judging_records import SeedSpread
from strata_sae.pipeline.runs.migration import JsonObject

Measured = list[tuple[Trained, AbsorptionRecord]]
Cell = str | float | None

LEDE = (
    "A latent that stands for a first letter is silent in some words because the latent of the word writes the letter "
    "too: that part of the letter is absorbed. 0 is best. Two SAEs whose means are nearer than their deviations over "
    "seeds are equal here."
)
_HEADS = [
    ("Variant", ""),
    ("Site", ""),
    ("Probes", "own: at the minimum of their objective; compat: trained as SAEBench trains them, 50 epochs"),
    ("Fraction", "share of the letter, 0 to 1"),
    ("Fraction s.d.", "over the seeds"),
    ("Full", "share of words"),
    ("Full s.d.", "over the seeds"),
    ("Latents of a letter", "mean count"),
    ("F1, rows", "of the probe of the rows on words it was not trained on, mean over all letters"),
    ("F1, one latent", "of the letter's best latent on the same words, mean over all letters"),
    ("Letters", "that are kept, fewest of a seed"),
    ("Words", "that are measured, fewest of a seed"),
    ("Seeds", "that give a number"),
]
_LETTER_HEADS = [
    ("Variant", ""),
    ("Site", ""),
    ("Letter", ""),
    ("Fraction", "mean over the seeds"),
    ("Full", "mean over the seeds"),
    ("Words", "of all seeds"),
    ("Seeds", "in which it is kept"),
]


def absorption_section(run: Run) -> Section | None:
    """First-letter absorption; None of a run in which it was not measured."""
    saes = [sae for site in run.sites for sae in run.at(site)]
    measured = [(sae, record) for sae in saes if (record := _record(run, sae)) is not None]
    if not measured:
        return None
    return Section(
        anchor="absorption",
        title="First-letter absorption",
        lede=LEDE,
        tables=[_table(measured), _letters(measured)],
        figures=[_figure(measured)],
        notes=_notes(saes, measured),
    )


def _record(run: Run, sae: Trained) -> AbsorptionRecord | None:
    config, training = sae.config, sae.training
    if config is None or training is None:
        return None
    return run.read(sae.folder.absorption, lambda: read_absorption(sae.folder, config, training))


def _table(measured: Measured) -> SectionTable:
    rows: list[list[Cell]] = []
    for sae, record in measured:
        for probes in PROBES:
            found = record.probes[probes]
            rows.append(
                [
                    sae.variant,
                    sae.site,
                    probes,
                    found.fraction.mean,
                    found.fraction.standard_deviation,
                    found.full.mean,
                    found.full.standard_deviation,
                    found.split_latents.mean,
                    found.probe_f1.mean,
                    found.one_latent_f1.mean,
                    min(len(seed.letters) for seed in found.seeds),
                    min(seed.n_words for seed in found.seeds),
                    found.fraction.n_seeds,
                ]
            )
    caption = "Absorption in both of SAEBench's forms, mean and deviation over seeds of words, prompts and probes."
    return SectionTable("absorption", caption, _HEADS, rows)


def _letters(measured: Measured) -> SectionTable:
    rows: list[list[Cell]] = []
    for sae, record in measured:
        kept = [letter for seed in record.probes["own"].seeds for letter in seed.letters]
        for name in sorted({letter.letter for letter in kept}):
            of_letter = [letter for letter in kept if letter.letter == name]
            rows.append(
                [
                    sae.variant,
                    sae.site,
                    name,
                    sum(letter.fraction for letter in of_letter) / len(of_letter),
                    sum(letter.full for letter in of_letter) / len(of_letter),
                    sum(letter.n_words for letter in of_letter),
                    len(of_letter),
                ]
            )
    caption = "Absorption letter by letter, with our own probes. Few words of a letter say little about it."
    return SectionTable("absorption_letters", caption, _LETTER_HEADS, rows)


def _figure(measured: Measured) -> SectionFigure:
    traces: list[JsonObject] = [
        {
            "type": "scatter",
            "mode": "markers",
            "variant": sae.variant,
            "x": [f"{sae.variant}<br>{form}" for form in ("fraction", "full")],
            "y": [spread.mean for spread in _forms(record.probes["own"])],
            "error_y": {
                "type": "data",
                "array": [spread.standard_deviation or 0.0 for spread in _forms(record.probes["own"])],
            },
        }
        for sae, record in measured
    ]
    return SectionFigure(
        "absorption",
        "Absorption with our own probes; bars are one standard deviation over the seeds.",
        traces,
        {"yaxis": {"title": "absorbed", "rangemode": "tozero"}, "height": 300},
    )


def _forms(found: AbsorptionOfProbes) -> tuple[SeedSpread, SeedSpread]:
    return found.fraction, found.full


def _notes(saes: list[Trained], measured: Measured) -> list[str]:
    notes = [
        f"{sae.variant} at {sae.site}: not measured: {reason}."
        for sae in saes
        if sae.config is not None and (reason := not_measured(sae.config))
    ]
    _, first = measured[0]
    per_letter, least = first.settings.words_per_letter, first.settings.min_letters
    words = "all words of one token" if per_letter is None else f"at most {per_letter} words of one token a letter"
    notes.append(f"Words: {words}; a number needs {least} letters that a probe of the rows tells (F1 above 0.6).")
    for kind in PROBES:
        if few := _without_number(measured, kind):
            notes.append(f"With {kind} probes some seeds give no number, as fewer letters are told: {few}.")
    if not all(seed.is_converged for _, record in measured for seed in record.probes["own"].seeds):
        notes.append("Some of our own probes did not reach their minimum.")
    notes.append("The rows are those of words in prompts, not of the store: no filter of training applies to them.")
    return notes


def _without_number(measured: Measured, kind: Literal["own", "compat"]) -> str:
    return ", ".join(
        f"{sae.variant} at {sae.site} ({spread.n_undefined} of {spread.n_undefined + spread.n_seeds})"
        for sae, record in measured
        if (spread := record.probes[kind].fraction).n_undefined
    )
