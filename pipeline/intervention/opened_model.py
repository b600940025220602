"""The language model of a run's store with the SAEs of the run on its device: what prompts and ablations run on."""

import logging
from collections.abc import Collection
from dataclasses import dataclass

from pydantic import ValidationError

from strata_sae.pipeline.config.judging import WithModelSettings
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.intervention.prompt_tokens import PromptTokens
from strata_sae.pipeline.intervention.which_model import load_model, model_settings
from strata_sae.pipeline.language_model.inputs import Recorded
from strata_sae.pipeline.language_model.loading import load_tokenizer
from strata_sae.pipeline.language_model.splice import WholeModel
from strata_sae.pipeline.reading.routes import route_in
from strata_sae.pipeline.reading.which_store import open_store
from strata_sae.pipeline.runs.chain import read_config, read_training
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.trained import TrainedSAE
from strata_sae.pipeline.runs.trained import load as load_sae
from strata_sae.stores import Plan

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedModel:
    """A model and the SAEs beside it, all in memory."""

    whole: WholeModel
    """With a hook at every site that one of the SAEs reads or writes; `whole.sites` is in the order of execution."""
    words: PromptTokens
    saes: dict[str, TrainedSAE]
    """By name, on the device of the model; sorted."""
    routes: dict[str, Route]
    """What each of them reads and writes."""
    left_out: dict[str, str]
    """SAEs that no text can be shown to, and why."""

    def sae(self, name: str) -> TrainedSAE:
        """Raises: ConfigError if there is no such SAE, or no text can be shown to it."""
        if name in self.saes:
            return self.saes[name]
        if name in self.left_out:
            raise ConfigError(f"{name}: {self.left_out[name]}")
        raise ConfigError(f"{name!a}: is no SAE of this run; there are: {', '.join(self.saes)}")

    def check_latent(self, name: str, latent: int, where: str) -> None:
        """Raises: ConfigError if the SAE has no such latent. where: what named it."""
        d_sae = self.sae(name).sae.d_sae
        if not 0 <= latent < d_sae:
            raise ConfigError(f"{where}: there is no latent {latent}; {name} has the latents 0 to {d_sae - 1}")


def open_model(config: TrainConfig, run: RunFolder, only: Collection[str] = ()) -> OpenedModel:
    """Load the model and the trained SAEs of a run, with codes or without.

    only: names of the SAEs that are wanted; none: all.
    Raises: ConfigError where the store's rows are of no model, the model is not there or another one, or no SAE is
        left; StoreError, CheckpointError.
    """
    settings = config.evaluation.with_model or WithModelSettings()
    stores = open_store(config)
    plan = stores.stores[0].plan
    _check_is_of_a_model(plan)
    language_model = model_settings(config, plan, settings)
    routes, left_out = _routes(run, {store.id for store in stores.stores}, only)
    whole = load_model(language_model, plan, list(dict.fromkeys(at for one in routes.values() for at in one.sites)))
    saes = {name: load_sae(run.variant(name), whole.device) for name in routes}
    recorded = plan.config.get("corpus")
    with_bos = isinstance(recorded, dict) and recorded.get("prepend_bos") is True
    longest = getattr(whole.model.config.get_text_config(), "max_position_embeddings", None)
    return OpenedModel(whole, PromptTokens(load_tokenizer(language_model), with_bos, longest), saes, routes, left_out)


def _check_is_of_a_model(plan: Plan) -> None:
    """Raises: ConfigError for rows of a toy, or that came from elsewhere."""
    try:
        Recorded.of(plan)
    except ValidationError:
        raise ConfigError(
            "RUN: the store's plan names no language model and no corpus (a toy's rows, or rows that came from "
            "elsewhere), so there is no model to show a text to"
        ) from None


def _routes(
    run: RunFolder, store_ids: Collection[str], only: Collection[str]
) -> tuple[dict[str, Route], dict[str, str]]:
    """What the SAEs read and write that a text can be shown to, and why not the others; by their records alone.

    Raises: ConfigError if none is left, or one that is asked for by its name is not; CheckpointError.
    """
    routes, left_out = {}, {}
    for folder in run.trained():
        if only and folder.name not in only:
            continue
        record = read_config(folder).record
        training = read_training(folder, record).record
        if training.status != "finished":
            left_out[folder.name] = f"its training has {training.status}, so this is no trained SAE"
        elif not {record.store_id, *record.store_ids.values()} & {*store_ids}:
            raise CheckpointError(
                f"{folder.config}: trained on store {record.store_id[:16]}, which the config does not name; set "
                "store.path to the store it was trained on"
            )
        elif record.training.input_scale == "per_document":
            left_out[folder.name] = (
                "was trained on rows standardised by document, whose mean and deviation are known only once a document "
                "has ended, so no text that goes on can be shown to it"
            )
        else:
            routes[folder.name] = route_in(record)
    for name in only:
        if name not in routes:
            raise ConfigError(f"{name}: {left_out.get(name, f'no trained SAE of {run.path}')}")
    for name, why in left_out.items():
        log.warning("%s: left out: %s", name, why)
    if not routes:
        raise ConfigError(f"{run.path}: has no SAE that a text can be shown to; train one with: strata train")
    return routes, left_out
