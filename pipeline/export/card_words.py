"""What a card says of an SAE's latents in words: how well explanations tell where latents fire, and a few of them."""

from statistics import median

from strata_sae.pipeline.export.markdown import escaped
from strata_sae.pipeline.export.shared import SharedSAE
from strata_sae.pipeline.pages.text import UNKNOWN, masked
from strata_sae.pipeline.runs.chain import read_interpretation, read_published
from strata_sae.pipeline.runs.interpretation_records import (
    HEADLINE,
    ExplainedLatent,
    InterpretationRecord,
    PublishedRecord,
)

SHOWN_LATENTS = 10
"""On a card: the first by number of those that were drawn, so no selection of good ones."""
_LONGEST = 200


def words_of(sae: SharedSAE) -> list[str]:
    """Paragraphs of a card; none where nothing is known in words."""
    folder, config, training = sae.trained.folder, sae.trained.record, sae.trained.training
    parts = []
    if folder.interpretation.name in sae.names:
        parts += _interpreted(read_interpretation(folder, config, training).record)
    if folder.published.name in sae.names:
        parts.append(_published(read_published(folder, config, training).record))
    return ["## What latents mean", *parts] if parts else []


def _interpreted(record: InterpretationRecord) -> list[str]:
    explained = [latent for latent in record.latents if latent.explanation is not None]
    explainer, scorer = (escaped(str(masked(name))) for name in (record.explainer, record.scorer))
    scored = "by the same model, which then agrees with itself" if explainer == scorer else f"by {scorer}"
    lines = [
        f"{len(explained):,} of {len(record.latents):,} latents that were drawn are explained by {explainer}, and "
        f"scored {scored} on other documents: `interpretation.json`. {_accuracy(record)}"
    ]
    table = ["| latent | explanation | detection, balanced accuracy | rating, 1 to 5 |", "|---|---|---|---|"]
    table += [_row(latent) for latent in sorted(explained, key=lambda one: one.latent)[:SHOWN_LATENTS]]
    return [*lines, "\n".join(table)] if explained else lines


def _accuracy(record: InterpretationRecord) -> str:
    scored = [latent.scores[HEADLINE] for latent in record.latents if HEADLINE in latent.scores]
    known = [one.balanced_accuracy for one in scored if one.balanced_accuracy is not None]
    if not known:
        return "Detection was not scored."
    low, high = record.interval(f"{HEADLINE}_balanced_accuracy")
    span = f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else ""
    lifts = [one.lift for one in scored if one.lift is not None]
    lift = f"; median lift over token labels {median(lifts):+.3f}" if lifts else ""
    failed = sum(one.n_failed for one in scored)
    return (
        f"Detection: median balanced accuracy {median(known):.3f}{span}, where 0.5 is chance{lift}; {failed:,} windows "
        "without an answer."
    )


def _row(latent: ExplainedLatent) -> str:
    scored = latent.scores.get(HEADLINE)
    accuracy = scored.balanced_accuracy if scored else None
    span = f" ({scored.interval.low:.2f} to {scored.interval.high:.2f})" if scored and scored.interval else ""
    shown = UNKNOWN if accuracy is None else f"{accuracy:.3f}{span}"
    words = escaped((latent.explanation or "")[:_LONGEST])
    return f"| {latent.latent} | {words} | {shown} | {latent.rating or UNKNOWN} |"


def _published(record: PublishedRecord) -> str:
    makers = record.makers
    by = f", by {', '.join(map(escaped, makers))}" if makers else ""
    return (
        f"Others published explanations of {record.n_explained:,} of {record.n_latents:,} latents{by} (source: "
        f"{record.source}): `published.json`. They were not scored here."
    )
