"""The activation store: plain zarr v3 on disk, with the durability, completeness and integrity that zarr leaves out.

The names below are the whole face; a module of a wing is for the other wings.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from strata_sae.stores.errors import StoreError
    from strata_sae.stores.format.plan import Plan
    from strata_sae.stores.format.plan_file import read_plan
    from strata_sae.stores.front.store import ActivationStore, open_store
    from strata_sae.stores.front.verifying import verify
    from strata_sae.stores.front.write_store import write_store
    from strata_sae.stores.reading.masks import Filters
    from strata_sae.stores.serving.batches import Batches

if __name__ == "stores":  # a second copy of every class, unequal to the first
    raise ImportError("import strata_sae.stores")

__all__ = [
    "ActivationStore",
    "Batches",
    "Filters",
    "Plan",
    "StoreError",
    "open_store",
    "read_plan",
    "verify",
    "write_store",
]

_HOMES = {
    "ActivationStore": "front.store",
    "Batches": "serving.batches",
    "Filters": "reading.masks",
    "Plan": "format.plan",
    "StoreError": "errors",
    "open_store": "front.store",
    "read_plan": "format.plan_file",
    "verify": "front.verifying",
    "write_store": "front.write_store",
}

if not TYPE_CHECKING:  # for a type checker these names are the imports above, and any other name is an error

    def __getattr__(name):
        """Load a name's module when the name is first used: reading JSON (`stores.files.canonical`) takes no array."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
