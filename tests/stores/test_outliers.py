"""Few rows of outlier norm: counted and weighed from the stored norms, for every encoding, as plain numpy would."""

import numpy as np
import pytest

from strata_sae.stores import ActivationStore, Filters
from strata_sae.stores.front.store import outliers

SITE = "blocks.1.hook_resid_post"


@pytest.mark.parametrize("options", [{}, {"encoding": "int8"}, {"compressor": "zstd"}], ids=str)
@pytest.mark.parametrize("multiple", [1.2, 3.0, 1000.0])
@pytest.mark.parametrize("filters", [Filters(), Filters(drop_bos=True), Filters(max_norm_multiple=3.0)], ids=str)
def test_outliers_are_those_that_the_norm_filter_would_leave_out(make_store, options, multiple, filters):
    store = ActivationStore.open(make_store(**options))
    start, stop = store.plan.splits["train"]
    norms_N, flags_N = store.norms(SITE, start, stop).astype(float), store.token_map("flags", start, stop)
    median = store.statistics(SITE)["content"]["norm_quantiles"]["0.5"]
    kept_N = filters.passes(flags_N, norms_N, median)
    outlier_N = kept_N & (norms_N > multiple * median)

    found = outliers(store, SITE, "train", filters, multiple)

    assert found is not None
    assert (found.n_rows, found.n_outliers) == (kept_N.sum(), outlier_N.sum())
    assert found.square_share == pytest.approx(np.square(norms_N[outlier_N]).sum() / np.square(norms_N[kept_N]).sum())
    same = Filters(filters.drop_bos, max_norm_multiple=min(multiple, filters.max_norm_multiple or multiple))
    assert found.n_rows - found.n_outliers == store.mask(SITE, "train", same).n_rows


def test_a_store_of_special_tokens_alone_has_no_outliers(make_store, monkeypatch):
    store = ActivationStore.open(make_store())
    monkeypatch.setattr(store, "statistics", lambda site: {"content": {"count": 0}})
    assert outliers(store, SITE, "train", Filters(), 3.0) is None
