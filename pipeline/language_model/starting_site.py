"""A site to begin with: the residual stream after a model's middle layer."""

from typing import NamedTuple

from strata_sae.pipeline.language_model.folder import model_folder
from strata_sae.pipeline.language_model.loading import config_from
from strata_sae.pipeline.language_model.survey import survey
from strata_sae.pipeline.language_model.transformers_library import quiet
from strata_sae.pipeline.settings import ModelSettings


class StartingSite(NamedTuple):
    """What a first config has to know of a model."""

    name: str
    width: int
    max_positions: int | None
    """Longest sequence the model was made for (tokens); None where its config does not say."""


def starting_site(settings: ModelSettings) -> StartingSite:
    """The site after the middle layer, from the model's config alone (a hub model is downloaded).

    Raises: ConfigError where there is no such model, or its family has no such names; it says how sites are named.
    """
    config = config_from(model_folder(settings).path, settings)
    text = config.get_text_config()
    name = f"blocks.{getattr(text, 'num_hidden_layers', 0) // 2}.hook_resid_post"
    with quiet():
        found = survey(config, [name], trust_remote_code=settings.trust_remote_code)
    return StartingSite(name, found.widths[name], getattr(text, "max_position_embeddings", None))
