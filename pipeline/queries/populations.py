"""Which rows a question is asked of: codes are of all rows of the store, and filters act when they are read."""

from typing import Literal, get_args

import numpy as np

from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.reading.feed import sites_of
from strata_sae.pipeline.reading.heldout_spans import NO_SPECIAL
from strata_sae.stores import Filters, Together, joint_mask

Population = Literal["as_trained", "all_but_special", "all"]
"""Rows that pass training's filters; without BOS and special tokens; every row. Of all splits together."""
POPULATIONS: tuple[Population, ...] = get_args(Population)


def kept_rows(stores: Together, route: Route, filters: Filters, population: Population) -> np.ndarray:
    """Whether each row of the store belongs to a population: bool [n_rows]. filters: training's."""
    plan = stores.stores[0].plan
    if population == "all":
        return np.ones(plan.n_rows, bool)
    kept_N = np.zeros(plan.n_rows, bool)
    for split in plan.splits:
        mask = joint_mask(sites_of(route, stores), split, filters if population == "as_trained" else NO_SPECIAL)
        for block in mask.blocks.tolist():
            kept_N[mask.rows_in(block) + block * plan.rows_per_chunk] = True
    return kept_N
