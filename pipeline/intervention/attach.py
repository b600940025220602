"""A language model with an SAE at one of its sites: reconstructed, edited or only watched while a `with` block runs."""

from typing import TypeGuard

import torch
from torch import Tensor, nn

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.intervention.attached import Attached, Where
from strata_sae.pipeline.intervention.edits import Amounts, Edits, Latents
from strata_sae.pipeline.language_model.sites import FAMILIES, Site, site_of
from strata_sae.pipeline.language_model.transformers_library import CausalModel
from strata_sae.pipeline.runs.loaded import ForeignSAE, LoadedSAE
from strata_sae.pipeline.runs.trained import TrainedSAE
from strata_sae.pipeline.saes.base import Inference


def attach(
    model: nn.Module,
    sae: LoadedSAE,
    site: str | None = None,
    *,
    writes: str | None = None,
    ablate: Latents = (),
    clamp: Amounts | None = None,
    add: Amounts | None = None,
    where: Where | None = None,
    error: bool = False,
    read_only: bool = False,
    inference: Inference | None = None,
) -> "Attached":
    """A Hugging Face causal language model that computes with an SAE's reconstruction while a `with` block runs.

        with strata.attach(model, sae) as attached:
            logits = model(**inputs).logits
            codes_BSE = attached.codes.to_dense()
        with strata.attach(model, sae, add={123: 8.0}, error=True):
            steered = model.generate(**inputs)

    The hook is that of `evaluate --with-model`. Every row of every forward pass is replaced, special tokens included,
    unless `where` says otherwise; evaluation replaces the rows that pass `training.filters` (form `population`), or
    those of tokens that are not special (`saebench`). docs/attaching.md shows edits, generation and gradients.

    Args:
        model: as `AutoModelForCausalLM.from_pretrained` gives it, on any device, in any precision. The SAE computes in
            float32 on the device of the rows, and its result is cast to their dtype.
        sae: what `strata.load` gives. An SAE of rows standardised by document is refused.
        site: whose rows are read (`blocks.8.hook_resid_post`, or a module's path); None: the SAE's own.
        writes: whose rows are replaced, of a transcoder; None: the SAE's own, or `site`.
        ablate: latents that are set to 0.
        clamp: {latent: value} that latents are set to, in units of codes; a number, or a tensor [B, S] or [].
        add: {latent: value} that is added to latents, active or not (steering).
        where: the positions that are replaced, bool [B, S]; or a function from the token ids [B, S] of a forward pass
            to that (with a cache, each step of generate() has one position). Other rows stay as they are. None: all.
        error: keep what the reconstruction misses: a row becomes x + (edited reconstruction - reconstruction).
        read_only: change nothing, record codes only.
        inference: `k` or `threshold`, as for `sae.encode`.
    Raises: ConfigError for a model, SAE, site, latent or value that cannot work; during a forward pass, for a width
        that does not fit, a mask or value of another shape, or a module that does not run exactly once.

    """
    if not _is_causal(model):
        raise ConfigError(
            f"model: is a {type(model).__name__}; give what AutoModelForCausalLM.from_pretrained returned"
        )
    _check_sae(sae, inference)
    reads, target = _route(sae, site, writes)
    edits = Edits(sae.sae.d_sae, ablate, {} if clamp is None else clamp, {} if add is None else add)
    if read_only and (edits or error or where is not None):
        raise ConfigError("read_only: nothing is written, so leave out ablate, clamp, add, where and error")
    if not (where is None or callable(where) or (isinstance(where, Tensor) and where.dtype == torch.bool)):
        raise ConfigError("where: give a tensor of bool [B, S], or a function of token ids [B, S] that returns one")
    sites = [_site(model, name) for name in reads]
    return Attached(model, sae, sites, _site(model, target), edits, where, error, read_only, inference)


def _check_sae(sae: LoadedSAE, inference: Inference | None) -> None:
    if not isinstance(sae, LoadedSAE):
        raise ConfigError(f"sae: is a {type(sae).__name__}; give what strata.load returned")
    if sae.is_per_document:
        raise ConfigError(
            f"sae: {sae.name} was trained on rows standardised by document, whose mean and deviation are known only "
            "once a document has ended, so no forward pass can go on with it; train it with another input_scale"
        )
    if inference is not None and inference not in (ways := sae.sae.inferences()):
        raise ConfigError(f"inference: {inference!r}; {sae.name} selects by {' or '.join(ways) or 'its one rule'}")


def _is_causal(model: nn.Module) -> TypeGuard[CausalModel]:
    config = getattr(model, "config", None)
    return isinstance(model, nn.Module) and hasattr(config, "model_type") and hasattr(config, "get_text_config")


def _site(model: CausalModel, name: str) -> Site:
    family = FAMILIES.get(model.config.model_type)
    if name.startswith("blocks.") and family and f"{family.layers}.0" not in dict(model.named_modules()):
        raise ConfigError(
            f"site: {name!r}: this {type(model).__name__} has no {family.layers}, where a {model.config.model_type} "
            "model of AutoModelForCausalLM keeps its blocks; attach to that one, or name a module's path"
        )
    return site_of(model, name, named_in="site")


def _route(sae: LoadedSAE, site: str | None, writes: str | None) -> tuple[tuple[str, ...], str]:
    """Whose rows are read, and whose are written: as asked for, else the SAE's own."""
    own_reads, own_writes = _own_route(sae)
    reads = own_reads if site is None else (site,)
    if not reads:
        raise ConfigError(f"site: {sae.name} does not say whose rows it reads; name the site")
    written = own_writes if own_writes != own_reads else reads
    if writes is None and len(written) != 1:
        raise ConfigError(
            f"writes: {sae.name} writes {len(written)} sites at once, and a forward pass goes on from one site; "
            "read_only with `writes` records its codes"
        )
    return reads, written[0] if writes is None else writes


def _own_route(sae: LoadedSAE) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sites that an SAE reads and writes by its records; empty where they do not say."""
    if isinstance(sae, TrainedSAE):
        record = sae.record
        reads = tuple(part.site for part in record.reads) or (record.site,)
        return reads, tuple(part.site for part in record.writes) or reads
    source = sae.source if isinstance(sae, ForeignSAE) else None
    if source is None or source.site is None:
        return (), ()
    return (source.site,), (source.writes or source.site,)
