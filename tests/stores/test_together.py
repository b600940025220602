"""Row-aligned stores opened as one, and the refusal of those that are not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from strata_sae.stores import ActivationStore, Batches, StoreError
from strata_sae.stores.deriving.shuffle import shuffle_store
from strata_sae.stores.deriving.slice import slice_store
from strata_sae.stores.format.records import Lineage
from strata_sae.stores.front.aligned import Together

SITES = {"a": 8, "b": 4}


@pytest.fixture
def whole(make_store: Callable[..., Path]) -> ActivationStore:
    return ActivationStore.open(make_store("whole", n_rows=900, sites=SITES))


def test_each_site_comes_from_the_store_that_holds_it(whole: ActivationStore, tmp_path: Path) -> None:
    parts = [
        slice_store(whole, tmp_path / site, sites=[site], encoding=encoding)
        for site, encoding in (("a", "float32"), ("b", "bfloat16"))
    ]
    both = Together(parts)
    assert both.sites == SITES
    assert (both.at("a").id, both.at("b").id) == (parts[0].id, parts[1].id)
    served = []
    for site in SITES:
        with Batches(both.at(site), site, batch_size=32, window_rows=256) as batches:
            served.append([batches.batch(step)[1].tolist() for step in range(20)])
    assert served[0] == served[1], "row n of a batch is the same token at both sites"
    with Batches(whole, "a", batch_size=32, window_rows=256) as batches:
        assert [batches.batch(step)[1].tolist() for step in range(20)] == served[0]
    summary = both.summary()
    assert set(summary["sites"]) == set(SITES)
    assert summary["siblings"] == {parts[1].id: ["b"]}
    assert "siblings" not in Together([whole]).summary()
    with pytest.raises(StoreError, match=r"no site 'c' in .*a and .*b; they hold"):
        both.at("c")


@pytest.mark.parametrize("kind", ["rows", "shuffle", "other"])
def test_stores_of_other_rows_are_refused(
    whole: ActivationStore, tmp_path: Path, make_store: Callable[..., Path], kind: str
) -> None:
    if kind == "rows":
        other = slice_store(whole, tmp_path / "x", rows=(0, 500)).path
    elif kind == "shuffle":
        other = shuffle_store(whole, tmp_path / "x", seed=0).path
    else:
        other = make_store("x", n_rows=900, sites=SITES, chunk_bytes=4096)
    with pytest.raises(StoreError, match=r"whole and .*x cannot be read as one: their batches have different orders"):
        Together([whole, ActivationStore.open(other)])


def test_a_forged_order_is_refused_by_the_token_map(
    whole: ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strata_sae.stores.deriving.shuffle.lineage_of", lambda kind, source, rows, _: Lineage(
        kind, source.id, source.plan.id, source.plan.id, rows
    ))  # fmt: skip
    other = shuffle_store(whole, tmp_path / "x", seed=0)
    assert other.plan.order_id == whole.plan.id
    assert not np.array_equal(other.rows("a", 0, 900), whole.rows("a", 0, 900))
    with pytest.raises(StoreError, match="their token maps differ"):
        Together([whole, other])
