"""The section on what the language model loses with reconstructions in the place of rows."""

from strata_sae.pipeline.report.run_data import Run, Trained
from strata_sae.pipeline.report.sections import Section, SectionFigure, SectionTable
from strata_sae.pipeline.runs.chain import read_model_metrics
from strata_sae.pipeline.runs.judging_records import Estimate, FormLosses, FormName, ModelMetrics
from strata_sae.pipeline.runs.migration import JsonObject

FORMS: dict[FormName, str] = {
    "population": "rows that pass training's filters are replaced; the others, such as attention sinks and special "
    "tokens, keep their activation",
    "saebench": "all rows but those of special tokens are replaced, as SAEBench does; its zero ablation is of all rows",
}
_OF_SAE = [
    ("variant", ""),
    ("CE recovered", "share of zero ablation's loss"),
    ("CE recovered, 95 %", "interval over documents"),
    ("KL recovered", "share of zero ablation's KL"),
    ("KL recovered, 95 %", "interval over documents"),
    ("CE with the SAE", "nat"),
    ("CE added", "nat"),
    ("KL", "nat"),
    ("KL, 95 %", "interval over documents"),
    ("CE recovered of the mean", "share of mean ablation's loss"),
    ("rows replaced", "rows"),
]

Measured = list[tuple[Trained, ModelMetrics]]


def model_section(run: Run) -> Section | None:
    """Cross-entropy and KL by site and form; None where nothing was measured with the model."""
    by_site = {site: found for site in run.sites if (found := _measured(run, site))}
    if not by_site:
        return None
    tables, figures, notes = [], [], []
    for number, (site, measured) in enumerate(by_site.items()):
        forms = [form for form in FORMS if any(form in record.forms for _, record in measured)]
        tables += [_table(number, site, form, measured) for form in forms]
        figures.append(_figure(number, site, forms[0], measured))
        tables.append(_bounds(number, site, forms, measured))
        notes += _notes(site, measured)
    return Section("with-the-model", "With the language model", _lede(by_site), tables, figures, notes)


def _measured(run: Run, site: str) -> Measured:
    """The SAEs of a site that were measured."""
    found = ((trained, _record(run, trained)) for trained in run.at(site))
    return [(trained, record) for trained, record in found if record is not None]


def _record(run: Run, trained: Trained) -> ModelMetrics | None:
    config, training = trained.config, trained.training
    if config is None or training is None:
        return None
    folder = run.folder.variant(f"{trained.variant}@{trained.site}")
    return run.read(folder.model_metrics, lambda: read_model_metrics(folder, config, training))


def _lede(by_site: dict[str, Measured]) -> str:
    record = next(iter(by_site.values()))[0][1]
    return (
        f"What {record.model.name} ({record.model.dtype}) loses where an SAE's reconstruction stands in the place of "
        f"stored rows: cross-entropy (CE) of the next token, and KL from the model's own predictions. Recovered: 1 "
        f"loses nothing, 0 loses as much as zeros in the same rows. Measured on {record.n_rows:,} rows of "
        f"{record.n_sequences:,} whole sequences, of {record.n_documents:,} of {record.n_heldout_documents:,} held-out "
        f"documents. Differences between SAEs are smaller than these intervals show: documents that are hard for one "
        f"are hard for all."
    )


def _table(number: int, site: str, form: FormName, measured: Measured) -> SectionTable:
    rows = [_row(trained.variant, record, record.forms[form]) for trained, record in measured if form in record.forms]
    caption = f"{site}, form {form}: {FORMS[form]}"
    return SectionTable(f"with_model_{form}_{number}", caption, list(_OF_SAE), rows)


def _row(variant: str, record: ModelMetrics, losses: FormLosses) -> list[str | float | None]:
    ce, clean = losses.with_sae.cross_entropy.value, record.clean_cross_entropy.value
    return [
        variant,
        losses.ce_recovered.value,
        _interval(losses.ce_recovered),
        losses.kl_recovered.value,
        _interval(losses.kl_recovered),
        ce,
        None if ce is None or clean is None else ce - clean,
        losses.with_sae.kl.value,
        _interval(losses.with_sae.kl),
        losses.ce_recovered_of_mean.value,
        losses.n_replaced_rows,
    ]


def _bounds(number: int, site: str, forms: list[FormName], measured: Measured) -> SectionTable:
    """The passes that all SAEs of a site share."""
    record = measured[0][1]
    clean = record.clean_cross_entropy
    rows: list[list[str | float | None]] = [["clean", "", clean.value, _interval(clean), 0.0, None]]
    for form in forms:
        for what, losses in (
            ("zeros", record.forms[form].zero_ablation),
            ("the mean row", record.forms[form].mean_ablation),
        ):
            ce, kl = losses.cross_entropy, losses.kl
            rows.append([what, form, ce.value, _interval(ce), kl.value, _interval(kl)])
    heads = [
        ("in the rows", ""),
        ("form", ""),
        ("CE", "nat"),
        ("CE, 95 %", "interval over documents"),
        ("KL", "nat"),
        ("KL, 95 %", "interval over documents"),
    ]
    return SectionTable(f"with_model_bounds_{number}", f"{site}: what all SAEs are measured between", heads, rows)


def _figure(number: int, site: str, form: FormName, measured: Measured) -> SectionFigure:
    """KL against L0, each SAE with its interval."""
    traces: list[JsonObject] = []
    for trained, record in measured:
        if form not in record.forms or (kl := record.forms[form].with_sae.kl).value is None:
            continue
        up, down = (kl.interval.high - kl.value, kl.value - kl.interval.low) if kl.interval else (0.0, 0.0)
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "variant": trained.variant,
                "x": [trained.value("l0")],
                "y": [kl.value],
                "error_y": {"type": "data", "symmetric": False, "array": [up], "arrayminus": [down]},
            }
        )
    layout: JsonObject = {
        "xaxis": {"title": "L0 (active latents per row)", "type": "log"},
        "yaxis": {"title": "KL (nat)"},
        "height": 320,
    }
    caption = f"{site}: KL with the reconstruction spliced in (form {form}), 95 % intervals over documents"
    return SectionFigure(f"with_model_{number}", caption, traces, layout)


def _notes(site: str, measured: Measured) -> list[str]:
    record = measured[0][1]
    notes = []
    if record.n_documents < record.n_heldout_documents:
        notes.append(
            f"{site}: {record.n_documents:,} of {record.n_heldout_documents:,} held-out documents are in the "
            "sequences; evaluation.with_model.max_rows allows no more."
        )
    if record.clean_cross_entropy.interval is None:
        notes.append(f"{site}: no intervals, since {record.n_documents:,} documents are too few for one.")
    if record.n_sequences_left_out:
        notes.append(
            f"{site}: {record.n_sequences_left_out:,} sequences hold a row that is not finite, and are left out."
        )
    return notes


def _interval(estimate: Estimate) -> str | None:
    found = estimate.interval
    return None if found is None else f"{found.low:.4g} to {found.high:.4g}"
