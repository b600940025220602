"""What is handed over of a trained SAE: weights, and what the files of its run say of it."""

from importlib import metadata
from typing import NamedTuple

from pydantic import JsonValue

from strata_sae.pipeline.export.headline import headline_scores
from strata_sae.pipeline.formats.foreign import DoesNotFit, Handed
from strata_sae.pipeline.pages.text import masked
from strata_sae.pipeline.runs.addresses import run_of
from strata_sae.pipeline.runs.evaluation_records import StoreSummary
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.migration import JsonObject
from strata_sae.pipeline.runs.record_files import read_record, read_yaml
from strata_sae.pipeline.runs.records import SAERecord
from strata_sae.pipeline.runs.trained import TrainedSAE
from strata_sae.pipeline.strict_yaml import parse


def handed(trained: TrainedSAE) -> Handed:
    """An SAE as writers of formats take it.

    Raises: DoesNotFit for what no format can say; CheckpointError if a file of the run is not what it should be.
    """
    record = trained.record
    site, writes = _sites(trained)
    if trained.training.status == "diverged":
        raise DoesNotFit(f"{trained.name}: training diverged, so this is no trained SAE; train it again")
    if trained.is_per_document:
        raise DoesNotFit(
            f"{trained.name}: input_scale: per_document standardises rows by their document, which no other library "
            "does; train with input_scale: statistics"
        )
    text = text_source(trained)
    return Handed(
        name=trained.name,
        sae=trained.sae,
        site=site,
        writes=writes,
        model=text.model,
        context_tokens=text.context_tokens,
        prepends_bos=text.prepends_bos,
        dataset=None if record.imported else text.dataset,  # an imported one learnt from other text
        provenance=_provenance(trained, record),
    )


def _sites(trained: TrainedSAE) -> tuple[str, str]:
    """The site that is read and the one that is written. Raises: DoesNotFit for a crosscoder."""
    record = trained.record
    reads, writes = [part.site for part in record.reads], [part.site for part in record.writes]
    if len(reads) > 1 or len(writes) > 1:
        raise DoesNotFit(
            f"{trained.name}: reads {len(reads)} sites and writes {len(writes)}, and no other library has a format "
            "for that; SAEs and transcoders of one site each fit"
        )
    return (reads[0], writes[0]) if reads else (record.site, record.site)


def _provenance(trained: TrainedSAE, record: SAERecord) -> dict[str, JsonValue]:
    """What goes with the weights into every format: data without anybody's paths, and the same at each export."""
    made_from = trained.provenance
    keys = {"sae", "objective", "training", "resampling", "parent", "imported"}
    # What the files of an imported SAE say of it may hold all that was handed over before.
    config = masked(record.model_dump(mode="json", include=keys, exclude={"imported": {"facts"}}))
    return {
        "strata_version": metadata.version("strata-sae"),
        "run": made_from.run,
        "variant": record.variant,
        "site": record.site,
        "seed": record.seed,
        "store_ids": dict(made_from.store_ids),
        "plan_id": record.plan_id,
        "config_fingerprint": record.fingerprint,
        "weights_sha256": made_from.weights_sha256,
        "training_rows": trained.training.rows,
        "training_steps": trained.training.n_steps,
        "config": config,
        "scores": headline_scores(trained),
    }


class TextSource(NamedTuple):
    """The language model and the text that rows come from, as far as the run's files say."""

    model: str | None
    context_tokens: int | None
    prepends_bos: bool
    dataset: str | None


def text_source(trained: TrainedSAE) -> TextSource:
    """From store.json where scores were measured, else from the run's config.yaml."""
    run = run_of(trained.folder)
    if run.store.exists():
        store = read_record(run.store, StoreSummary).record
        if trained.record.store_id in {store.store_id, *store.siblings}:
            corpus: JsonObject = {**store.config.corpus.further(), "context_length": store.config.corpus.context_length}
            sources: list[JsonValue] = [source.model_dump(mode="json") for source in store.corpus.sources]
            return _text(store.model.model, corpus, sources)
    config = _config_of(run)
    model, corpus = _object(config.get("model")), _object(config.get("corpus"))
    listed = corpus.get("sources")
    return _text(model.get("path"), corpus, listed if isinstance(listed, list) else [])


def _text(model: JsonValue, corpus: JsonObject, sources: list[JsonValue]) -> TextSource:
    context = corpus.get("context_length")
    names = [_object(source).get("path") or _object(source).get("kind") for source in sources]
    dataset = ", ".join(str(masked(name)) for name in names if name)
    shown = masked(model)
    return TextSource(
        model=shown if isinstance(shown, str) else None,
        context_tokens=context if isinstance(context, int) else None,
        prepends_bos=corpus.get("prepend_bos") is True,
        dataset=dataset or None,
    )


def _config_of(run: RunFolder) -> JsonObject:
    """The run's config.yaml as plain data; empty where there is none."""
    return _object(parse(read_yaml(run.config)[0], str(run.config))[0]) if run.config.exists() else {}


def _object(value: JsonValue) -> JsonObject:
    return value if isinstance(value, dict) else {}
