"""The activation store: plain zarr v3 on disk, with the durability, completeness and integrity that zarr leaves out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from strata_sae.stores.batches import Batches
    from strata_sae.stores.errors import StoreError
    from strata_sae.stores.filters import Filters
    from strata_sae.stores.plan import Plan, read_plan
    from strata_sae.stores.reader import ActivationStore
    from strata_sae.stores.verifying import verify

if __name__ == "stores":  # a second copy of every class, unequal to the first
    raise ImportError("import strata_sae.stores")

__all__ = ["ActivationStore", "Batches", "Filters", "Plan", "StoreError", "read_plan", "verify"]

_HOMES = {
    "ActivationStore": "reader",
    "Batches": "batches",
    "Filters": "filters",
    "Plan": "plan",
    "StoreError": "errors",
    "read_plan": "plan",
    "verify": "verifying",
}


def __getattr__(name: str) -> Any:
    """Load a name's module when it is first asked for: who only parses JSON (`stores.canonical`) needs no array."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
