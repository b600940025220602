"""Latents of a run put into words by one language model and scored by another: what `strata interpret` does.

A pure function of the run's files, the settings and the answers: which latents, which windows and which requests never
depend on time, so a run that was killed asks again only for what has no answer yet.
"""

import logging
from collections.abc import Sequence

from strata_sae.pipeline.config.interpretation import InterpretationSettings
from strata_sae.pipeline.endpoint.request import Answered, Asks
from strata_sae.pipeline.interpretation.choosing import chosen, labelled
from strata_sae.pipeline.interpretation.excerpts import Excerpts, Material
from strata_sae.pipeline.interpretation.explaining import explain
from strata_sae.pipeline.interpretation.label_sets import LabelSets
from strata_sae.pipeline.interpretation.scorers import Item, LatentScores, score
from strata_sae.pipeline.interpretation.totals import totals
from strata_sae.pipeline.interpretation.writing import Interpreted, in_words, top_texts, write_interpretations
from strata_sae.pipeline.pages.text import masked
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE
from strata_sae.pipeline.runs.interpretation_records import ExplainedLatent, InterpretationOf, InterpretationRecord

log = logging.getLogger(__name__)

LATENTS_AT_ONCE = 64
"""Latents whose windows are in memory together: 1 MB each, and 60 requests. Of each block explanations are asked for
together, then all scores, so `concurrency` is used within a block."""
SHORT_STRETCH = 8.0
"""Rows of a document that lie together, below which windows are too short to tell a context."""


def interpret(
    run: CodedRun, saes: Sequence[CodedSAE], settings: InterpretationSettings, asks: Asks, *, write: bool = True
) -> list[InterpretationRecord]:
    """Explain and score latents of SAEs of a run; of each write interpretation.json and interpretations.csv.

    Latents that a budget left unfinished are left out, and said; an SAE without a finished one gets no files.
    write: False for a dry run, whose answers stand in for others.
    Raises: ConfigError if no model is named; EndpointError for what no repetition mends, with nothing written of that
        SAE: its answers are kept.
    """
    settings.model_of("explainer")
    if settings.scores:
        settings.model_of("scorer")
    records = []
    for sae in saes:
        labelled(run, sae, write=write)
        latents = chosen(sae, settings.latents, settings.seed)
        finished = _finished(run, sae, latents, settings, asks)
        if n_left := len(latents) - len(finished):
            log.warning(
                "%s: %d of %d latents are not finished, since the budget was spent; their answers are kept: run the "
                "same again with larger interpretation.max_requests or max_tokens",
                sae.name,
                n_left,
                len(latents),
            )
        if len(latents) < settings.latents:
            log.info("%s: %d latents are active often enough to be explained", sae.name, len(latents))
        if finished:
            records.append(_record(sae, settings, finished))
            if write:
                write_interpretations(sae.folder, records[-1], finished)
                log.info("%s: %s", sae.name, in_words(records[-1]))
    return records


def _record(sae: CodedSAE, settings: InterpretationSettings, finished: Sequence[Interpreted]) -> InterpretationRecord:
    latents = [one.latent for one in finished]
    of = interpretation_of(sae, settings)
    metrics = totals(latents, of, settings.scores, settings.seed)
    return InterpretationRecord(**dict(of), latents=latents, metrics=metrics)


def interpretation_of(sae: CodedSAE, settings: InterpretationSettings) -> InterpretationOf:
    """What interpretations of an SAE with these settings depend on.

    A local server may know a model by its path, which is masked: the record is shown and pushed.
    """
    of = sae.labels_of
    return InterpretationOf(
        sae=of.sae,
        weights_sha256=of.weights_sha256,
        store_id=of.store_id,
        codes_id=of.codes_id,
        population=of.population,
        filters=of.filters,
        explainer=str(masked(settings.model_of("explainer"))),
        scorer=str(masked(settings.scorer or "")),
        settings={"latents": settings.latents, "scores": list(settings.scores), "seed": settings.seed},
    )


def _finished(
    run: CodedRun, sae: CodedSAE, latents: Sequence[int], settings: InterpretationSettings, asks: Asks
) -> list[Interpreted]:
    """The latents of which everything was asked, by number; blocks are made in the order in which they were drawn."""
    excerpts, label_sets = Excerpts(run, sae, settings.seed), LabelSets(run, sae)
    if excerpts.spans.mean_stretch < SHORT_STRETCH:
        log.warning(
            "%s: neighbours in the store are seldom neighbours in a document (%.1f rows on average), so the windows "
            "that are shown hold little text; explanations of them say little",
            sae.name,
            excerpts.spans.mean_stretch,
        )
    found: list[Interpreted] = []
    for first in range(0, len(latents), LATENTS_AT_ONCE):
        materials = [excerpts.of(latent) for latent in latents[first : first + LATENTS_AT_ONCE]]
        explained = explain(asks, settings.model_of("explainer"), materials, settings.seed)
        # What has no explanation for want of budget is asked for again later: its scores would be of nothing.
        some = [pair for pair in zip(materials, explained, strict=True) if not pair[1].is_unasked]
        items = [Item(material, answer.value, label_sets.of(material.latent)) for material, answer in some]
        scored = score(asks, settings.scorer or "", settings.scores, items, settings.seed)
        found += [
            Interpreted(_explained(material, answer, of), top_texts(material), material.density)
            for (material, answer), of in zip(some, scored, strict=True)
            if not of.is_cut
        ]
    return sorted(found, key=lambda one: one.latent.latent)


def _explained(material: Material, answer: Answered[str], scored: LatentScores) -> ExplainedLatent:
    return ExplainedLatent(
        latent=material.latent,
        explanation=answer.value,
        failure=answer.failure,
        n_active_rows=material.n_active_rows,
        scores=scored.scores,
        rating=scored.rating,
        rating_failure=scored.rating_failure,
    )
