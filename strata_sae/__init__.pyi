"""The face of Strata, in the order of a first notebook (docs/notebook.md)."""

from .stores import open_store as open_store, write_store as write_store, ActivationStore as ActivationStore
from .stores import Pooled as Pooled, pool as pool
from .stores import Batches as Batches, StreamSettings as StreamSettings, Filters as Filters, StoreError as StoreError
from .pipeline.face import load as load, train as train, evaluate as evaluate
