"""The activation store: plain zarr v3 on disk, with the durability, completeness and integrity that zarr leaves out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stores.batches import Batches
    from stores.errors import StoreError
    from stores.filters import Filters
    from stores.plan import Plan, read_plan
    from stores.reader import ActivationStore
    from stores.verifying import verify

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
