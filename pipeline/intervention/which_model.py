"""The language model whose activations a store holds: found, compared with what the plan recorded, and loaded."""

import logging
from collections.abc import Sequence

from pydantic import ValidationError

from strata_sae.pipeline.config.judging import WithModelSettings
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.input_files import shown
from strata_sae.pipeline.language_model.inputs import Recorded
from strata_sae.pipeline.language_model.loading import compare_model, load
from strata_sae.pipeline.language_model.probe import check_isolation, check_sites
from strata_sae.pipeline.language_model.splice import WholeModel
from strata_sae.pipeline.runs.judging_records import JudgedModel
from strata_sae.pipeline.runs.record_files import fingerprint
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.stores import Plan
from strata_sae.stores.files.canonical import Json

log = logging.getLogger(__name__)

_WEIGHTS = ("weights_sha256", "config_sha256", "revision", "gguf_sha256")


def recorded_model(plan: Plan, settings: WithModelSettings) -> JudgedModel:
    """The model of a store, by what its plan says. Raises: ConfigError where its rows are of no model, or cannot be
    put back into one.
    """
    recorded = plan.provenance.get("model")
    try:
        Recorded.of(plan)
    except ValidationError:
        recorded = None
    if not isinstance(recorded, dict) or not isinstance(name := recorded.get("model"), str):
        raise ConfigError(
            "evaluation.with_model: the store's plan names no language model and no corpus (a toy's rows, or rows that "
            "came from elsewhere), so there is nothing to run"
        )
    if plan.lineage is not None and not plan.lineage.order_id:
        raise ConfigError(
            f"evaluation.with_model: the store is a {plan.lineage.kind} without the whole sequences its rows come "
            f"from; score with the store it was made from ({plan.lineage.store_id[:12]})"
        )
    known: Json = {key: recorded.get(key) for key in _WEIGHTS}
    return JudgedModel(name=name, identity=fingerprint(known), dtype=settings.dtype)


def model_settings(config: TrainConfig, plan: Plan, settings: WithModelSettings) -> ModelSettings:
    """The model of the config, or else of the plan, in the precision of judging.

    Raises: ConfigError where it is not the model that the store was made from.
    """
    found = config.model
    if found is None:
        recorded = plan.config.get("model")
        try:
            found = ModelSettings.model_validate(recorded)
        except ValidationError:
            raise ConfigError("model: missing, and the store's plan does not say where its model is; add it") from None
    now = found.model_copy(update={"dtype": settings.dtype})
    recorded = plan.provenance.get("model")
    try:
        compared = compare_model(now, recorded if isinstance(recorded, dict) else {})
    except ValidationError:
        raise ConfigError("evaluation.with_model: the store's plan does not say which weights were read") from None
    if compared.differences:
        raise ConfigError(
            f"model.path: is not the model that the store was made from: {shown(compared.differences)}; give the one "
            "that it was"
        )
    if compared.unknown:
        log.info("not compared with what the store was made from: %s", shown(compared.unknown))
    return now


def load_model(settings: ModelSettings, plan: Plan, sites: Sequence[str]) -> WholeModel:
    """The whole model, checked at every site. Raises: ConfigError."""
    whole = load(settings, sites, whole=True)
    check_sites(whole)
    if Recorded.of(plan).corpus.isolate_documents:
        check_isolation(whole)
    return whole
