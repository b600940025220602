"""What a plan records of a model, found without reading the weights into memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from strata_sae.pipeline.language_model.folder import model_folder
from strata_sae.pipeline.language_model.identity import software, tokenizer_identity, weights_identity
from strata_sae.pipeline.language_model.isolation import isolates
from strata_sae.pipeline.language_model.loading import config_from, tokenizer_from
from strata_sae.pipeline.language_model.quiet import quiet
from strata_sae.pipeline.language_model.survey import survey
from strata_sae.pipeline.language_model.tensors import check_headers
from strata_sae.pipeline.settings import ModelSettings


@dataclass(frozen=True)
class Description:
    """The width of every site, and which model this is."""

    widths: dict[str, int]
    provenance: dict[str, Any]
    """Goes into plan.json and is hashed: no paths, user names, tokens, times."""
    max_positions: int | None
    """Longest sequence the model was made for (tokens); null where its config does not say."""
    n_embeddings: int | None
    """Token ids that the model knows, from 0 on; null where its config does not say."""
    isolates: bool
    """Whether documents packed into one sequence can be kept from seeing each other."""


def describe(settings: ModelSettings, sites: Sequence[str]) -> Description:
    """Widths from the config alone; provenance from the files' bytes (a hub model is downloaded for that).

    Raises: ConfigError if the model cannot be found, has no such site, or its weights are not those of its config.
    """
    source = model_folder(settings)
    config = config_from(source.path, settings)
    with quiet():
        found = survey(config, sites, trust_remote_code=settings.trust_remote_code)
    check_headers(source.path, settings, config, found)
    provenance = {
        "model": source.name,
        "revision": source.revision,
        "gguf_sha256": source.gguf_sha256,
        "architecture": found.architecture,
        "dtype": settings.dtype,
        "attention": found.attention,
        "trust_remote_code": settings.trust_remote_code,
        "hooks": {site.name: f"{site.side} of {site.module_path}" for site in found.sites},
        "tokenizer": tokenizer_identity(source.path, tokenizer_from(source.path, settings)),
        "software": software(),
        **weights_identity(source.path, with_code=settings.trust_remote_code),
    }
    return Description(
        widths={name: found.widths[name] for name in sites},
        provenance=provenance,
        max_positions=getattr(config.get_text_config(), "max_position_embeddings", None),
        n_embeddings=getattr(config.get_text_config(), "vocab_size", None),
        isolates=isolates(config.model_type, found.attention),
    )
