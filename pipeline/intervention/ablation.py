"""Effects of ablated latents on the latents of another SAE, or on the model's predictions: measured once, then kept."""

import logging

import numpy as np
import torch

from strata_sae.pipeline.config.judging import WithModelSettings
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.intervention.ablation_choice import chosen_latents
from strata_sae.pipeline.intervention.ablation_files import EffectFiles
from strata_sae.pipeline.intervention.ablation_readers import OfLatents, OfWords, Reader
from strata_sae.pipeline.intervention.ablation_rows import AblationRows, check_ablated, check_plain
from strata_sae.pipeline.intervention.ablation_sums import DEFINITION, N_KEPT, Ablation, PartEffects
from strata_sae.pipeline.intervention.intervene import LOGITS_BYTES
from strata_sae.pipeline.intervention.passes import Passes
from strata_sae.pipeline.intervention.which_model import load_model, model_settings, recorded_model
from strata_sae.pipeline.language_model.splice import WholeModel
from strata_sae.pipeline.progress import Progress
from strata_sae.pipeline.queries.asked_model import MeasuredEffects
from strata_sae.pipeline.queries.matching import check_same_rows
from strata_sae.pipeline.queries.opened import CodedSAE
from strata_sae.pipeline.queries.populations import Population
from strata_sae.pipeline.queries.windows import check_latent
from strata_sae.pipeline.reading.routes import route_in
from strata_sae.pipeline.runs import trained as trained_saes
from strata_sae.pipeline.runs.effect_records import EffectsOf, SAEPart
from strata_sae.pipeline.runs.evaluation_records import FilterPart

log = logging.getLogger(__name__)

PART_LATENTS = 64
"""Latents of a part (count): what a kill may cost, beside which the clean pass of every part is small."""


def measured_effects(
    config: TrainConfig,
    ablator: CodedSAE,
    reader: CodedSAE | None,
    population: Population,
    *,
    n: int,
    latent: int | None = None,
    show_progress: bool = False,
) -> MeasuredEffects:
    """As `AskedModel.effects`. The model is loaded only if something is not measured yet."""
    route = check_ablated(ablator)
    if reader is not None:
        check_plain(reader)
        check_same_rows(ablator, reader)
    settings = config.evaluation.with_model or WithModelSettings()
    plan = ablator.stores.at(route.writes[0]).plan
    of = EffectsOf(
        ablated=_part(ablator),
        store_id=ablator.record.store_id,
        reader=None if reader is None else _part(reader),
        population=population,
        model=recorded_model(plan, settings),
        max_rows=settings.max_rows,
        n_kept=N_KEPT,
        definition=DEFINITION,
    )
    rows = AblationRows(ablator, reader, population, settings.max_rows)
    if latent is not None:
        check_latent(ablator, latent)
        latents, n_dense = [latent], 0
    else:
        latents, n_dense = chosen_latents(ablator, population, rows.ablated_N, n)
    wanted = [latents[start : start + PART_LATENTS] for start in range(0, len(latents), PART_LATENTS)]
    files = EffectFiles(ablator.folder, of)
    missing = [part for part in wanted if not files.has(part)]
    if missing:
        new = [latent for part in missing for latent in part]
        done = f" ({len(latents) - len(new)} others are measured already)" if missing != wanted else ""
        on = f"{rows.n_rows:,} rows in {len(rows.spans)} sequences"
        log.info("ablating %d latents of %s%s on %s", len(new), ablator.name, done, on)
        _measure(config, settings, ablator, reader, rows, files, missing, show_progress)
    return _together([files.read(part, rows.n_rows) for part in wanted], rows, n_dense)


def _measure(
    config: TrainConfig,
    settings: WithModelSettings,
    ablator: CodedSAE,
    reader: CodedSAE | None,
    rows: AblationRows,
    files: EffectFiles,
    parts: list[list[int]],
    show_progress: bool,
) -> None:
    """Load the model, and measure and write part after part."""
    target, plan = rows.route.writes[0], rows.store.plan
    language_model = model_settings(config, plan, settings)
    reads = () if reader is None else route_in(reader.record).reads
    whole = load_model(language_model, plan, list(dict.fromkeys([target, *reads])))
    watched, batch_tokens = _reader(whole, reader, reads, target), language_model.batch_tokens
    if reader is None:
        batch_tokens = min(batch_tokens, max(1, LOGITS_BYTES // (4 * watched.n)))
    ablation = Ablation(
        Passes(whole, target),
        trained_saes.load(ablator.folder, whole.device),
        watched,
        rows,
        batch_tokens,
        whole.model.dtype,
    )
    title = f"{ablator.name}: ablating latents"
    n_pairs = rows.n_pairs([latent for part in parts for latent in part])
    with Progress(title, n_pairs, "pair", shown=show_progress) as bar:
        for part in parts:
            found = ablation.of(part, bar)
            files.write(found, rows.n_rows, len(rows.spans), watched.n)


def _reader(whole: WholeModel, reader: CodedSAE | None, reads: tuple[str, ...], target: str) -> Reader:
    """What is watched. Raises: ConfigError for an SAE that reads nothing at or behind the ablated site."""
    if reader is None:
        with torch.inference_mode():
            return OfWords(whole.run(torch.ones(1, 1, dtype=torch.int64)).logits_BSV.shape[-1])
    order = list(whole.sites)
    behind = frozenset(site for site in reads if order.index(site) > order.index(target))
    if not behind and target not in reads:
        raise ConfigError(
            f"--other: {reader.name} reads {' and '.join(reads)}, which runs before {target}, so no ablation there "
            "reaches it; name an SAE of a later site"
        )
    return OfLatents(trained_saes.load(reader.folder, whole.device), reads, target, behind)


def _together(parts: list[PartEffects], rows: AblationRows, n_dense: int) -> MeasuredEffects:
    """All parts as one."""
    latents = [one for part in parts for one in part.latents]
    ablator = np.repeat([one.latent for one in latents], [one.n_effects for one in latents]).astype(np.int64)
    reader, effect, error, logit = (
        np.concatenate([np.empty(0), *(getattr(part, name) for part in parts)])
        for name in ("reader", "effect", "standard_error", "log_probability")
    )
    n_sequences = len(rows.spans)
    return MeasuredEffects(
        latents, ablator, reader.astype(np.int64), effect, error, logit, rows.n_rows, n_sequences, n_dense
    )


def _part(sae: CodedSAE) -> SAEPart:
    return SAEPart(
        sae=sae.record.fingerprint,
        weights_sha256=sae.training.sha256.weights,
        filters=FilterPart.model_validate(sae.filters.key()),
    )
