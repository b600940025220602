"""The section about a toy: how much of its features each SAE has found."""

from pydantic import JsonValue

from strata_sae.pipeline.report.run_data import Run, Trained
from strata_sae.pipeline.report.sections import Section, SectionFigure, SectionTable
from strata_sae.pipeline.runs.chain import read_truth
from strata_sae.pipeline.runs.migration import JsonObject
from strata_sae.pipeline.runs.truth_records import TruthRecord

_RECOVERY = (
    ("r2", "R2"),
    ("r2_ceiling", "its ceiling"),
    ("l0", "L0"),
    ("true_l0", "true L0"),
    ("f1_per_feature", "F1 of features"),
    ("precision_per_feature", "precision of features"),
    ("recall_per_feature", "recall of features"),
    ("f1_per_latent", "F1 of latents"),
    ("mcc", "MCC"),
    ("uniqueness", "uniqueness"),
    ("feature_cosine_mean", "cosine of features"),
    ("feature_cosine_min", "least cosine"),
    ("dead_latents", "dead latents"),
)
_FAMILY = (
    ("latent_absorption", "latent absorption"),
    ("projection_absorption", "projection absorption"),
    ("leakage", "leakage"),
    ("suppression", "suppression"),
)
_PAIRS = (
    ("pair_detection", "pairs"),
    ("single_detection", "single features"),
    ("adjusted_cosine_mean", "adjusted cosine"),
    ("adjusted_cosine_min", "least adjusted cosine"),
    ("adjusted_pair_detection", "adjusted pairs"),
    ("adjusted_single_detection", "adjusted single features"),
)
_FEW_CHILDREN = 16
"""As many a reader looks through, of each of several SAEs (count)."""
Judged = list[tuple[Trained, TruthRecord]]


def truth_section(run: Run) -> Section | None:
    """What was recovered of a toy's features; None of a run whose store has no truth."""
    judged = [(sae, record) for sae in _in_order(run) if (record := _record(run, sae)) is not None]
    if not judged:
        return None
    _, first = judged[0]
    return Section(
        anchor="truth",
        title="Toy truth",
        lede=(
            f"The rows are made of {first.n_features:,} known features, of which {first.n_features_on:,} are on in any "
            f"of the {first.n_rows:,} held-out rows that are scored here. F1 of features says how many of them an SAE "
            "detects; R2 cannot be better than its ceiling without learning noise."
        ),
        tables=[table for table in (_recovery(judged), _family(judged), _children(judged), _pairs(judged)) if table],
        figures=[_figure(judged)],
        notes=_notes(judged),
    )


def _in_order(run: Run) -> list[Trained]:
    return [sae for site in run.sites for sae in run.at(site)]


def _record(run: Run, sae: Trained) -> TruthRecord | None:
    config, training = sae.config, sae.training
    if config is None or training is None:
        return None
    return run.read(sae.folder.truth, lambda: read_truth(sae.folder, config, training))


def _table(name: str, caption: str, judged: Judged, columns: tuple[tuple[str, str], ...]) -> SectionTable:
    _, first = judged[0]
    heads = [("variant", ""), *((head, _unit(first, metric)) for metric, head in columns)]
    rows: list[list[str | float | None]] = [
        [sae.variant, *(_value(record, metric) for metric, _ in columns)] for sae, record in judged
    ]
    return SectionTable(name, caption, heads, rows)


def _recovery(judged: Judged) -> SectionTable:
    caption = "What was recovered: F1 of features counts every feature once, F1 of latents every latent (SAELens)."
    return _table("truth_recovery", caption, judged, _RECOVERY)


def _family(judged: Judged) -> SectionTable | None:
    """Absorption, with the numbers of children and rows that it rests on."""
    if not any(record.n_children for _, record in judged):
        return None
    caption = (
        "What becomes of a parent where its child is on: means over the children of which each is defined. A dash: of "
        "none, and the last columns say why."
    )
    table = _table("truth_absorption", caption, judged, _FAMILY)
    reasons = sorted({status for _, record in judged for status in record.child_statuses} - {"measured"})
    table.heads.extend(
        [
            ("children measured", "of all"),
            ("rows with a child", "of children measured"),
            ("its latent on", "rows"),
            *((reason, "children") for reason in reasons),
        ]
    )
    for row, (_, record) in zip(table.rows, judged, strict=True):
        row.append(f"{record.child_statuses.get('measured', 0)} of {record.n_children}")
        row.extend([float(record.n_child_rows), float(record.n_child_rows_fired)])
        row.extend(float(record.child_statuses.get(reason, 0)) for reason in reasons)
    return table


def _children(judged: Judged) -> SectionTable | None:
    """Each child by itself, where they are few enough to be looked at; else they stand at the end of the page."""
    if not 0 < judged[0][1].n_children <= _FEW_CHILDREN:
        return None
    heads = [
        ("variant", ""),
        ("child", "feature"),
        ("parent", "feature"),
        ("status", ""),
        ("rows", "with the child"),
        ("its latent on", "rows"),
        *((head, "") for _, head in _FAMILY),
    ]
    rows: list[list[str | float | None]] = [
        [
            sae.variant,
            float(child.child),
            float(child.parent),
            child.status,
            float(child.n_rows),
            float(child.n_rows_fired),
            child.latent_absorption,
            child.projection_absorption,
            child.leakage,
            child.suppression,
        ]
        for sae, record in judged
        for child in record.children
    ]
    return SectionTable("truth_children", "Each child by itself.", heads, rows)


def _pairs(judged: Judged) -> SectionTable | None:
    """Seed 002's question: whether the two children of a latent are the two children of a parent."""
    if not any(_value(record, "pair_detection") is not None for _, record in judged):
        return None
    return _table("truth_pairs", "Pairs: of latents with two children.", judged, _PAIRS)


def _figure(judged: Judged) -> SectionFigure:
    hover = "<b>%{text}</b><br>R2 %{x:.3f}<br>F1 of features %{y:.3f}<extra></extra>"
    traces: list[JsonObject] = [
        {
            "type": "scatter",
            "mode": "markers",
            "variant": sae.variant,
            "x": [_value(record, "r2")],
            "y": [_value(record, "f1_per_feature")],
            "text": [sae.variant],
            "hovertemplate": hover,
        }
        for sae, record in judged
    ]
    ceiling: list[JsonValue] = [_value(judged[0][1], "r2_ceiling")] * 2
    line: JsonObject = {"type": "scatter", "mode": "lines", "name": "ceiling of R2", "x": ceiling, "y": [0.0, 1.0]}
    return SectionFigure(
        name="truth",
        caption="Features found against variance explained. A line at R2's ceiling: beyond it an SAE has learnt noise.",
        traces=[*traces, line],
        layout={"xaxis": {"title": "R2"}, "yaxis": {"title": "F1 of features", "range": [0, 1.02]}, "height": 320},
    )


def _notes(judged: Judged) -> list[str]:
    notes = []
    for sae, record in judged:
        carried = record.child_statuses.get("parent carried by b_dec", 0)
        if carried:
            notes.append(
                f"{sae.variant}: its bias carries the parent of {carried} of {record.n_children} children, so no "
                "latent can lose it: latent absorption and suppression of these are not defined."
            )
        if record.n_latents < record.n_features:
            notes.append(
                f"{sae.variant}: has {record.n_latents:,} latents for {record.n_features:,} features, so F1 of "
                f"features is at most {record.n_latents / record.n_features:.2f} where all features are on in some row."
            )
    return notes


def _value(record: TruthRecord, metric: str) -> float | None:
    measured = record.recovered.get(metric)
    return measured.value if measured else None


def _unit(record: TruthRecord, metric: str) -> str:
    measured = record.recovered.get(metric)
    return f"{measured.definition}; {measured.unit}" if measured else ""
