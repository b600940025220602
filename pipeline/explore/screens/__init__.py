"""The screens of one latent, of two SAEs, of a document, and of the map."""

from strata_sae.pipeline.explore.screen import Screen

SCREENS: tuple[Screen, ...] = ()
