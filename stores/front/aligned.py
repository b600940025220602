"""Several stores of the same rows, opened as one: a site more is then a store more, and the first stays as it is."""

from collections.abc import Sequence

from strata_sae.stores.errors import StoreError
from strata_sae.stores.format.plan import ARRAYS, Plan
from strata_sae.stores.front.listing import Summary
from strata_sae.stores.front.store import ActivationStore


class Together:
    """Row-aligned stores: the rows, the token map and the order of batches of each are those of the first.

    `at` gives the store of a site; everything else is the first store's.
    """

    def __init__(self, stores: Sequence[ActivationStore]) -> None:
        """Raises: StoreError naming two stores that are not aligned."""
        self.stores = list(stores)
        for other in self.stores[1:]:
            if reason := aligned(self.stores[0].plan, other.plan):
                raise StoreError(f"{_names([self.stores[0], other])} cannot be read as one: {reason}")
        self.path = self.stores[0].path

    @property
    def sites(self) -> dict[str, int]:
        """Width of every site of every store."""
        return {site: width for store in reversed(self.stores) for site, width in store.plan.sites.items()}

    def at(self, site: str) -> ActivationStore:
        """The store that holds a site: its id is what an SAE's record names. Raises: StoreError if none does."""
        for store in self.stores:
            if site in store.plan.sites:
                return store
        raise StoreError(f"no site {site!r} in {_names(self.stores)}; they hold {', '.join(self.sites)}")

    def summary(self) -> Summary:
        """The first store's summary, with the sites, statistics and bytes of all and the ids of the others."""
        whole, *others = [store.summary() for store in self.stores]
        for part in others:
            whole["sites"] = part["sites"] | whole["sites"]
            whole["statistics"] = part["statistics"] | whole["statistics"]
            whole["total_bytes"] += part["total_bytes"]
            whole["n_data_files"] += part["n_data_files"]
        if others:
            whole["siblings"] = {part["store_id"]: sorted(part["sites"]) for part in others}
        return whole


def aligned(first: Plan, second: Plan) -> str | None:
    """Why row n of one store is not row n of the other, or None if it is."""
    if first.order_id != second.order_id:
        return f"their batches have different orders ({first.order_id[:12]}, {second.order_id[:12]})"
    if (first.n_rows, first.splits) != (second.n_rows, second.splits):
        return f"they have {first.n_rows:,} and {second.n_rows:,} rows, or other splits"
    if first.rows_per_chunk != second.rows_per_chunk:
        return f"their chunks have {first.rows_per_chunk:,} and {second.rows_per_chunk:,} rows"
    tokens = [
        {name: entry.sha256 for name, entry in plan.files.items() if name.startswith(f"{ARRAYS}/")}
        for plan in (first, second)
    ]
    return None if tokens[0] == tokens[1] else "their token maps differ"


def _names(stores: Sequence[ActivationStore]) -> str:
    return " and ".join(str(store.path) for store in stores)
