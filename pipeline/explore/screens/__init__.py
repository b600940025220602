"""The screens of one latent, of two SAEs, of a document, and of the map."""

from strata_sae.pipeline.explore.screen import Screen
from strata_sae.pipeline.explore.screens import compare, latent

SCREENS: tuple[Screen, ...] = (
    Screen("latent", "/{run}/{sae}/{latent:int}", latent.fill),
    Screen("compare", "/{run}/compare/{a}/{b}", compare.fill),
)
