"""Which architectures a term fits, said once for all terms of a kind."""

from strata_sae.pipeline.objective.term import TermSettings
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.saes.base import SAESettings
from strata_sae.pipeline.saes.jump_relu import JumpReLU


def needs_learnt_l0(settings: TermSettings, sae_settings: SAESettings) -> None:
    """Raises: ValueError where k fixes how many latents are on, so that a sparsity penalty would only shrink them."""
    if not ARCHITECTURES[sae_settings.architecture].learns_l0:
        fitting = ", ".join(name for name, sae in ARCHITECTURES.items() if sae.learns_l0)
        raise ValueError(
            f"term {settings.term!r} fits architectures that learn how many latents are on ({fitting}), got "
            f"{sae_settings.architecture!r}, whose k already fixes it; remove the term or change the architecture"
        )


def needs_codes_from_zero(settings: TermSettings, sae_settings: SAESettings) -> None:
    """Raises: ValueError where l0 is not learnt, or where codes jump: the estimate of a threshold's gradient asks for
    the penalty's derivative at 0, which is infinite below p = 1.
    """
    needs_learnt_l0(settings, sae_settings)
    if isinstance(sae_settings, JumpReLU.Settings):
        raise ValueError(
            f"term {settings.term!r} fits architectures whose codes rise from 0 (relu, gated), got "
            f"{sae_settings.architecture!r}; use the term 'l0' or 'l1' there"
        )


def needs_runners_up(settings: TermSettings, sae_settings: SAESettings) -> None:
    """Raises: ValueError where a latent that is off has no positive pre-activation: it would have nothing to give."""
    if not ARCHITECTURES[sae_settings.architecture].has_runners_up:
        fitting = ", ".join(name for name, sae in ARCHITECTURES.items() if sae.has_runners_up)
        raise ValueError(
            f"term {settings.term!r} fits architectures that select among positive pre-activations ({fitting}), got "
            f"{sae_settings.architecture!r}, where the term would do nothing; remove it"
        )
