"""The page's section on matched L0: which knob was searched, what each training gave, and what was taken."""

from strata_sae.pipeline.report.run_data import Run, Trained
from strata_sae.pipeline.report.sections import Section, SectionFigure, SectionTable
from strata_sae.pipeline.runs.chain import check_match, read_match
from strata_sae.pipeline.runs.match_records import MatchRecord
from strata_sae.pipeline.runs.migration import JsonObject
from strata_sae.pipeline.runs.record_files import Found

LEDE = (
    "Each of these variants was trained again with other values of one setting, its knob, until the mean number of "
    "active latents of a held-out row was the wanted one. Scores of SAEs are compared at equal L0 only."
)


def matching_section(run: Run) -> Section | None:
    """The trail of every SAE whose L0 was matched, or was to be; None where none was."""
    saes = [sae for site in run.sites for sae in run.at(site)]
    found = [(sae, match) for sae in saes if (match := _record(run, sae)) is not None]
    if not found:
        return None
    return Section(
        anchor="matched-l0",
        title="Matched L0",
        lede=LEDE,
        tables=[_outcomes(found), _trails(found)],
        figures=[_figure(found)],
        notes=_notes(found),
    )


def _record(run: Run, sae: Trained) -> MatchRecord | None:
    """match.json of an SAE, checked; None if it is not there, or if something is wrong with it, which is said."""

    def read() -> Found[MatchRecord]:
        found = read_match(sae.folder)
        if sae.config and sae.training:
            check_match(sae.folder, found.record, sae.config, sae.training)
        return found

    return run.read(sae.folder.match, read)


def _outcomes(found: list[tuple[Trained, MatchRecord]]) -> SectionTable:
    """A row for each SAE."""
    rows: list[list[str | float | None]] = []
    for sae, match in found:
        taken = match.taken
        rows.append(
            [
                sae.variant,
                sae.site,
                match.outcome,
                match.knob,
                taken.knob if taken else None,
                taken.l0 if taken else None,
                match.l0,
                _off(taken.l0, match) if taken else None,
                100.0 * match.tolerance,
                len(match.trials),
                match.n_rows,
                match.n_documents,
            ]
        )
    return SectionTable(
        name="matched_l0",
        caption="What was found",
        heads=[
            ("variant", ""),
            ("site", ""),
            ("outcome", "matched; nearest: no value of an integer knob fits; searching: unfinished; failed"),
            ("knob", "the setting that was changed"),
            ("value", "of the knob, in the SAE that was taken"),
            ("L0", "mean active latents of the held-out rows below"),
            ("wanted L0", "latents per row"),
            ("off", "L0 / wanted L0 - 1, in %"),
            ("tolerance", "largest |off|, in %"),
            ("trainings", "count"),
            ("rows", "held-out rows that L0 is the mean of: those that training's filters leave"),
            ("documents", "that these rows are of"),
        ],
        rows=rows,
    )


def _trails(found: list[tuple[Trained, MatchRecord]]) -> SectionTable:
    """A row for each training."""
    return SectionTable(
        name="matched_l0_trials",
        caption="Every training of each search",
        heads=[
            ("variant", ""),
            ("site", ""),
            ("training", "its files lie in match/<number>/ of the SAE's folder"),
            ("value", "of the knob"),
            ("L0", "latents per held-out row; a dash: training diverged"),
            ("off", "L0 / wanted L0 - 1, in %"),
            ("taken", "whether its files are the SAE's"),
        ],
        rows=[
            [
                sae.variant,
                sae.site,
                number,
                trial.knob,
                trial.l0,
                _off(trial.l0, match),
                "yes" if number == match.accepted else "no",
            ]
            for sae, match in found
            for number, trial in enumerate(match.trials, start=1)
        ],
    )


def _figure(found: list[tuple[Trained, MatchRecord]]) -> SectionFigure:
    """L0 over the trainings, in multiples of the wanted one."""
    traces: list[JsonObject] = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": f"{sae.variant} @ {sae.site}",
            "variant": sae.variant,
            "x": [number for number, trial in enumerate(match.trials, start=1) if trial.l0],
            "y": [trial.l0 / match.l0 for trial in match.trials if trial.l0],
        }
        for sae, match in found
    ]
    return SectionFigure(
        name="matched_l0",
        caption="L0 of each training, in multiples of the wanted L0",
        traces=traces,
        layout={
            "xaxis": {"title": {"text": "training"}, "dtick": 1},
            "yaxis": {"title": {"text": "L0 / wanted L0"}, "type": "log"},
        },
    )


def _notes(found: list[tuple[Trained, MatchRecord]]) -> list[str]:
    """What went otherwise than was wanted."""
    notes = []
    for sae, match in found:
        name = f"{sae.variant} at {sae.site}"
        if match.outcome == "failed":
            notes.append(f"{name}: L0 {match.l0:g} was not matched: {match.reason}. There is no SAE of it.")
        elif match.outcome == "nearest":
            notes.append(f"{name}: no value of {match.knob} gives L0 {match.l0:g}; the nearest was taken.")
        elif match.outcome == "searching":
            notes.append(f"{name}: the search for L0 {match.l0:g} is unfinished; run train again.")
    return notes


def _off(l0: float | None, match: MatchRecord) -> float | None:
    return None if l0 is None else 100.0 * (l0 / match.l0 - 1.0)
