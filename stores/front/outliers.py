"""How many rows have an outlier norm, and how much of the sum of squares they carry: from the stored norms alone."""

from typing import NamedTuple

import numpy as np

from strata_sae.stores.errors import StoreError
from strata_sae.stores.front.store import ActivationStore
from strata_sae.stores.reading.masks import Filters


class Outliers(NamedTuple):
    """Of the rows of a split that pass the filters."""

    n_rows: int
    """How many rows there are."""
    n_outliers: int
    """How many of them have a norm above the multiple of the median norm."""
    square_share: float
    """Their share of the sum of ||x||^2 (0 to 1)."""


def outliers(store: ActivationStore, site: str, split: str, filters: Filters, multiple: float) -> Outliers | None:
    """The rows that `filters` keeps and `max_norm_multiple: multiple` would leave out.

    None where the store knows no median norm (every row is a special token) or no row passes. Reads 4 bytes a row.
    """
    content = store.statistics(site).get("content", {})
    mask = store.mask(site, split, filters)
    if not content.get("count") or mask.n_rows == 0:
        return None
    try:
        limit = multiple * float(content["norm_quantiles"]["0.5"])
    except (KeyError, TypeError, ValueError):
        raise StoreError(f"{store.path}: the statistics of {site} have no median norm; fetch them again") from None
    size, n_outliers, above, total = store.plan.rows_per_chunk, 0, 0.0, 0.0
    for block in mask.blocks.tolist():
        start = block * size
        norms_R = store.norms(site, start, min(start + size, store.plan.n_rows))[mask.rows_in(block)]
        squares_R, outlier_R = np.square(norms_R.astype(np.float64)), norms_R > limit
        n_outliers += int(outlier_R.sum())
        above += float(squares_R[outlier_R].sum())
        total += float(squares_R.sum())
    return Outliers(mask.n_rows, n_outliers, above / total if total > 0.0 else 0.0)
