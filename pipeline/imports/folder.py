"""The files of an imported SAE, written as training writes them: training.json last, so its presence means done."""

import hashlib
from collections.abc import Sequence

import safetensors.torch
from pydantic import JsonValue

from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.formats.foreign import Foreign, Source
from strata_sae.pipeline.pages.text import masked
from strata_sae.pipeline.paths import impersonal
from strata_sae.pipeline.runs.folders import VariantFolder
from strata_sae.pipeline.runs.record_files import json_text, with_fingerprint, write_record
from strata_sae.pipeline.runs.records import (
    Ending,
    FinalHashes,
    ImportedPart,
    SAEPart,
    SAERecord,
    SitePart,
    Thresholds,
    TrainingPart,
)
from strata_sae.pipeline.saes.base import SAE
from strata_sae.stores import Together
from strata_sae.stores.files.filesystem import write_bytes

MAX_FACTS = 2**16
"""Characters of what a foreign file says beside the weights; a config of those that are known has some thousand."""


def write_imported(
    folder: VariantFolder, route: Route, foreign: Foreign, stores: Together, break_even_density: float
) -> None:
    """Write config.json, weights.safetensors, an empty curves.jsonl and training.json, each whole or not at all.

    break_even_density: that of the run, so that sums are rounded as those of the SAEs that it trains.
    """
    record = imported_record(folder.variant, route, foreign, stores, break_even_density)
    folder.training.unlink(missing_ok=True)
    write_record(folder.config, record)
    tensors = foreign.sae.parameters()
    if foreign.sae.threshold is not None:
        tensors = {**tensors, "threshold": foreign.sae.threshold}
    weights = safetensors.torch.save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
    write_bytes(folder.weights, weights)
    write_bytes(folder.curves, b"")
    ending = Ending(
        fingerprint=record.fingerprint,
        status="finished",
        diverged_at_step=None,
        stopped_at_step=None,
        best_step=None,
        reason=None,
        n_steps=0,
        rows=0,
        threshold=Thresholds(calibrated=None, running_mean=None),
        kept=[],
        sha256=FinalHashes(
            weights=hashlib.sha256(weights).hexdigest(), curves=hashlib.sha256(b"").hexdigest(), state=None
        ),
    )
    write_record(folder.training, ending)


def imported_record(
    variant: str, route: Route, foreign: Foreign, stores: Together, break_even_density: float
) -> SAERecord:
    """What config.json says of an SAE that nothing here trained."""
    sae, source, store = foreign.sae, foreign.source, stores.at(route.reads[0])
    widths = stores.sites
    record = SAERecord(
        variant=variant,
        site=route.name,
        seed=0,
        sae=_settings(sae, route),
        objective={},
        training=TrainingPart(batch_size=0, n_steps=0, break_even_density=break_even_density, input_scale="none"),
        resampling=None,
        store_id=store.id,
        plan_id=store.plan.id,
        d_out=route.d_out(widths),
        d_in=None if route.is_sae else route.d_in(widths),
        input_scale=1.0,
        reads=[] if route.is_sae else _parts(route.reads, widths),
        writes=[] if route.is_sae else _parts(route.writes, widths),
        store_ids={} if route.is_sae else {site: stores.at(site).id for site in route.sites},
        parent=None,
        imported=ImportedPart(
            format=source.format, path=impersonal(source.path), sha256=dict(source.sha256), facts=_facts(source)
        ),
        fingerprint="",
    )
    return with_fingerprint(record)


def _settings(sae: SAE, route: Route) -> SAEPart:
    """The SAE's settings. Of a transcoder no weight of the encoder can have begun as one of the decoder."""
    settings = sae.settings.model_dump(mode="json")
    if not route.is_sae:
        settings["initial"] |= {"encoder": "independent"}
    return SAEPart.model_validate(settings)


def _facts(source: Source) -> dict[str, JsonValue]:
    """What the files say, but for more than a page can show, numbers that JSON cannot spell, and anybody's paths."""
    try:
        facts = {name: masked(value) for name, value in source.facts.items()}
        return facts if len(json_text(dict(facts))) <= MAX_FACTS else {}
    except ValueError:
        return {}


def _parts(sites: Sequence[str], widths: dict[str, int]) -> list[SitePart]:
    """Sites side by side, whose rows the SAE reads or writes as they are stored."""
    return [SitePart(site=site, width=widths[site], scale=1.0) for site in sites]
