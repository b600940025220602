"""The face of Strata, in the order of a first notebook (docs/notebook.md)."""

from .stores import open_store as open_store, write_store as write_store, ActivationStore as ActivationStore
from .stores import Pooled as Pooled, pool as pool, Token as Token
from .stores import Batches as Batches, StreamSettings as StreamSettings, Filters as Filters
from .pipeline.face import load as load, train as train, evaluate as evaluate, export as export
from .pipeline.config import RunConfig as RunConfig
from .pipeline.runs.loaded import LoadedSAE as LoadedSAE, ForeignSAE as ForeignSAE
from .pipeline.runs.trained import TrainedSAE as TrainedSAE, Provenance as Provenance
from .pipeline.formats.foreign import Source as Source
from .pipeline.kernels.codes import SparseCodes as SparseCodes, DenseCodes as DenseCodes
from .pipeline.intervention.attach import attach as attach
from .pipeline.intervention.attached import Attached as Attached
from .pipeline.intervention.position_codes import PositionCodes as PositionCodes, CodeEntries as CodeEntries
from .pipeline.errors import ConfigError as ConfigError, CheckpointError as CheckpointError
from .stores import StoreError as StoreError
