"""The activation store: plain zarr v3 on disk, with the durability, completeness and integrity that zarr leaves out."""

from stores.batches import Batches
from stores.errors import StoreError
from stores.filters import Filters
from stores.plan import Plan, read_plan
from stores.reader import ActivationStore
from stores.verifying import verify

__all__ = ["ActivationStore", "Batches", "Filters", "Plan", "StoreError", "read_plan", "verify"]
