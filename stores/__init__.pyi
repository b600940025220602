"""The face of the activation store: every name that anybody outside may use, beside `stores.files` and `stores.errors`.

`__init__.py` reads this file and loads the module of a name when the name is first used.
"""

from .codes.finishing import finish_codes as finish_codes
from .codes.layout import is_codes_path as is_codes_path
from .codes.plan import CodesPlan as CodesPlan
from .codes.reading import CodesStore as CodesStore
from .codes.segment import SegmentCodes as SegmentCodes
from .codes.verifying import verify_codes as verify_codes
from .codes.writing import (
    claim_segment as claim_segment,
    create_codes as create_codes,
    missing_segments as missing_segments,
    write_segment as write_segment,
)
from .deriving.shuffle import shuffle_store as shuffle_store
from .deriving.slice import (
    lineage_of as lineage_of,
    plan_derived_store as plan_derived_store,
    slice_store as slice_store,
    token_map_of as token_map_of,
)
from .errors import StoreError as StoreError
from .format.commits import committed_units as committed_units
from .format.encodings import (
    dequantise as dequantise,
    quantise as quantise,
    to_float32 as to_float32,
    to_stored as to_stored,
)
from .format.folders import cache_root as cache_root, refuse_inside_a_store as refuse_inside_a_store
from .format.plan import (
    MANIFEST as MANIFEST,
    PLAN as PLAN,
    Plan as Plan,
    STAGING as STAGING,
    TOKEN_ROWS_PER_CHUNK as TOKEN_ROWS_PER_CHUNK,
    activation_bytes as activation_bytes,
    token_map_bytes as token_map_bytes,
    unit_bytes as unit_bytes,
)
from .format.plan_file import (
    MAX_CHUNK_BYTES as MAX_CHUNK_BYTES,
    MAX_SITES as MAX_SITES,
    MAX_UNITS as MAX_UNITS,
    MAX_WIDTHS as MAX_WIDTHS,
    check_limits as check_limits,
    read_plan as read_plan,
)
from .format.records import FileRecord as FileRecord, parse_file_record as parse_file_record
from .format.vocabulary import Token as Token, parse_tokens as parse_tokens, tokens_json as tokens_json
from .front.aligned import Together as Together, aligned as aligned
from .front.given_tokens import Rows as Rows
from .front.deleting import deletable as deletable, delete_store as delete_store
from .front.listing import list_stores as list_stores, stores_table as stores_table, summary_text as summary_text
from .front.pooling import Pooled as Pooled, pool as pool
from .front.store import ActivationStore as ActivationStore, open_store as open_store, outliers as outliers
from .front.verifying import verified_level as verified_level, verify as verify
from .front.write_store import write_store as write_store
from .reading.array import StoredArray as StoredArray, shard_records as shard_records
from .reading.checking import check_opened as check_opened
from .reading.masks import Filters as Filters, permutation as permutation, random_words as random_words
from .reading.site_rows import committed_columns as committed_columns, is_calibrated as is_calibrated
from .remote.bundles import Bundle as Bundle
from .remote.cards import card_head as card_head, fenced_json as fenced_json, plain_text as plain_text
from .remote.pull import pull as pull
from .remote.pull_bundle import RemoteBundle as RemoteBundle, open_bundle as open_bundle
from .remote.push import push as push
from .remote.push_bundle import push_bundle as push_bundle
from .remote.transports import is_url as is_url, local_folder as local_folder
from .serving.batches import (
    Batches as Batches,
    JoinedBatches as JoinedBatches,
    Sites as Sites,
    StreamOptions as StreamOptions,
    StreamSettings as StreamSettings,
    joined_in_order as joined_in_order,
    joint_mask as joint_mask,
)
from .serving.mixing import (
    BatchMixing as BatchMixing,
    batch_mixing as batch_mixing,
    documents_per_window as documents_per_window,
    predicted_variance_ratio as predicted_variance_ratio,
)
from .writing.finishing import (
    finish_store as finish_store,
    recover as recover,
    sweep as sweep,
    write_timing as write_timing,
)
from .writing.planning import Layout as Layout, PlanFields as PlanFields, create_store as create_store, layout as layout
from .writing.queue import TakenUnit as TakenUnit, UnitQueue as UnitQueue
from .writing.units import (
    UnitWriter as UnitWriter,
    commit_calibration as commit_calibration,
    sample_spans as sample_spans,
)
