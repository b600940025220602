"""The screens of one latent, of two SAEs, of a document, of the map, and of prompts."""

from strata_sae.pipeline.explore.screen import Screen
from strata_sae.pipeline.explore.screens import compare, document, latent, map, prompt

SCREENS: tuple[Screen, ...] = (
    Screen("latent", "/{run}/{sae}/{latent:int}", latent.fill),
    Screen("document", "/{run}/document/{document:int}", document.fill),
    Screen("map", "/{run}/{sae}/map", map.fill),
    Screen("prompt", "/{run}/prompt", prompt.fill),
    Screen("prompt", "/{run}/prompt/{asked}", prompt.fill),
    Screen("compare", "/{run}/compare/{a}/{b}", compare.fill),
)
