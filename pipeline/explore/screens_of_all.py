"""All screens, in the order in which their addresses are tried."""

from strata_sae.pipeline.explore.latents import LATENTS
from strata_sae.pipeline.explore.overview import OVERVIEW
from strata_sae.pipeline.explore.screen import Screen
from strata_sae.pipeline.explore.screens import SCREENS
from strata_sae.pipeline.explore.searching import SEARCH

ALL_SCREENS: tuple[Screen, ...] = (OVERVIEW, SEARCH, *sorted(SCREENS, key=lambda screen: screen.pattern), LATENTS)
"""Those with a fixed word in their address before those with a name in its place: `compare` before `{sae}`."""
