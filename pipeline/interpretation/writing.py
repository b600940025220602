"""The files of an SAE's interpretations: the record, and the same as a table."""

from collections.abc import Sequence
from typing import NamedTuple

from strata_sae.pipeline.interpretation.excerpts import Material
from strata_sae.pipeline.interpretation.picking import ACTIVE
from strata_sae.pipeline.pages.tables import csv_text
from strata_sae.pipeline.runs.folders import VariantFolder
from strata_sae.pipeline.runs.interpretation_records import ExplainedLatent, InterpretationRecord, Scored
from strata_sae.pipeline.runs.record_files import write_record
from strata_sae.stores.files.filesystem import write_bytes

N_TOP_EXAMPLES = 3
"""As many as HypotheSAEs' `interpret_sae` writes by default."""
_DECIMALS = 6
_Cell = str | int | float | None


class Interpreted(NamedTuple):
    """A finished latent, and what its row of the table has besides."""

    latent: ExplainedLatent
    top: list[str]
    """Texts of the windows with the largest values, at most N_TOP_EXAMPLES."""
    density: float


def top_texts(material: Material) -> list[str]:
    """The texts of the windows with the largest values, of all documents, the largest first."""
    top = [excerpt for excerpt in [*material.explain, *material.active] if excerpt.kind == ACTIVE[0]]
    top.sort(key=lambda excerpt: (-max(excerpt.values), excerpt.row))
    return [excerpt.text for excerpt in top[:N_TOP_EXAMPLES]]


def write_interpretations(folder: VariantFolder, record: InterpretationRecord, finished: Sequence[Interpreted]) -> None:
    """Write interpretations.csv, then interpretation.json; the same interpretations give the same bytes."""
    write_bytes(folder.interpretations, table(record, finished).encode("utf-8"))
    write_record(folder.interpretation, record)


def table(record: InterpretationRecord, finished: Sequence[Interpreted]) -> str:
    """A row for each latent: the columns of HypotheSAEs' tables of interpretations under their names, then ours."""
    names = sorted({name for one in record.latents for name in one.scores})
    rows = [_row(one, names) for one in finished]
    return csv_text([list(rows[0]) if rows else [], *(map(_rounded, row.values()) for row in rows)])


def _row(one: Interpreted, names: Sequence[str]) -> dict[str, _Cell]:
    latent = one.latent
    fidelity = latent.scores.get("fidelity")
    top = [*one.top, *[None] * (N_TOP_EXAMPLES - len(one.top))]
    row: dict[str, _Cell] = {
        "neuron_idx": latent.latent,
        "interpretation": latent.explanation,
        **{f"top_example_{number}": text for number, text in enumerate(top, start=1)},
        "f1_fidelity_score": fidelity.f1 if fidelity else None,
        "failure": latent.failure,
        "n_active_rows": latent.n_active_rows,
        "density": one.density,
        "monosemanticity": latent.rating,
        "monosemanticity_failure": latent.rating_failure,
    }
    for name in names:
        scored = latent.scores.get(name)
        row |= {f"{name}_{column}": cell for column, cell in _cells(scored).items()}
    return row


def _cells(scored: Scored | None) -> dict[str, _Cell]:
    """The columns of a score; empty cells of one that a latent does not have."""
    values = scored.model_dump(exclude={"kinds", "interval", "population_interval"}) if scored else {}
    cells = {column: values.get(column) for column in Scored.model_fields if column not in _BOUNDED | {"kinds"}}
    for column in _BOUNDED:
        bounds = getattr(scored, column) if scored else None
        cells |= {f"{column}_low": bounds.low if bounds else None, f"{column}_high": bounds.high if bounds else None}
    return cells


_BOUNDED = {"interval", "population_interval"}


def _rounded(cell: _Cell) -> _Cell:
    return round(cell, _DECIMALS) if isinstance(cell, float) else cell


def in_words(record: InterpretationRecord) -> str:
    """What came of the interpretations of an SAE, in a line."""
    parts = [f"{sum(one.explanation is not None for one in record.latents)} of {len(record.latents)} latents explained"]
    for name in sorted({name for one in record.latents for name in one.scores}):
        metric = f"{name}_balanced_accuracy"
        value, (low, high) = record.value(metric), record.interval(metric)
        if value is not None:
            noise = f" ({low:.2f} to {high:.2f})" if low is not None and high is not None else ""
            lift = record.value(f"{name}_lift")
            beside = f", {lift:+.2f} over token labels" if lift is not None else ""
            parts.append(f"{name}: balanced accuracy {value:.2f}{noise}{beside}")
        if failed := record.value(f"{name}_failed"):
            parts.append(f"{name}: {failed:.1%} of windows without a readable answer")
    return "; ".join(parts)
