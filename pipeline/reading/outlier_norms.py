"""The line that `plan`, `extract` and `train` print where few rows carry most of the norm."""

from strata_sae.pipeline.config.run import RunConfig
from strata_sae.pipeline.config.training import FilterSettings
from strata_sae.pipeline.reading.which_store import find_store, open_store
from strata_sae.stores import MANIFEST, Filters, Together, is_url, outliers

NORM_MULTIPLE = 3.0
"""A row is an outlier beyond this multiple of the median norm. Norms of ordinary rows lie within a factor of two of the
median in every model tried; attention sinks lie at 50 to 200 (decision 0016). It is also the value that is advised."""
FEW = 0.1
"""At most this share of the rows counts as few: where more are long, they are the data and no outliers."""
MUCH = 0.3
"""From this share of the sum of squares on, the line is printed, as in the report (`facts.UNEVEN`): E||x||^2, which
scales the rows, R2 and the loss then depend on those rows more than on all others."""


def outlier_norms(config: RunConfig, stores: Together) -> str | None:
    """One line if few of the rows to train on carry much of the sum of squares at a site; None if that is not so."""
    filters = Filters(**(config.training.filters if config.training else FilterSettings()).model_dump())
    found = {
        site: measured
        for site in config.sites_to_train_on()
        if site in stores.sites
        and (measured := outliers(stores.at(site), site, "train", filters, NORM_MULTIPLE)) is not None
        and measured.square_share >= MUCH
        and measured.n_outliers <= FEW * measured.n_rows
    }
    if not found:
        return None
    worst = max(found, key=lambda site: found[site].square_share)
    n_rows, n_outliers, square_share = found[worst]
    more = f" (and {len(found) - 1} more site{'s' if len(found) > 2 else ''})" if len(found) > 1 else ""
    return (
        f"{worst}{more}: {100 * n_outliers / n_rows:.2g} % of the rows to train on ({n_outliers:,} of {n_rows:,}) "
        f"carry {100 * square_share:.1f} % of the sum of squares, so scores and updates depend on them more than on "
        f"all others; training.filters.max_norm_multiple: {NORM_MULTIPLE:g} leaves them out"
    )


def stored_outlier_norms(config: RunConfig) -> str | None:
    """`outlier_norms` of the finished store that a run reads; None where there is none yet, or it lies at a URL."""
    if is_url(config.store.path or "") or not (find_store(config) / MANIFEST).is_file():
        return None
    return outlier_norms(config, open_store(config))
