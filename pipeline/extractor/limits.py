"""Every limit that an extraction would run into, found by `plan`: what it accepts, `extract` finishes."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from strata_sae.pipeline.available import free_bytes
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.arrange import Arrangement
from strata_sae.pipeline.extractor.sequences import GROUP_BATCHES
from strata_sae.pipeline.language_model import Description
from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import as_int, as_object, parse_canonical
from strata_sae.stores.format.plan import Plan, activation_bytes, token_map_bytes
from strata_sae.stores.format.plan_file import MAX_CHUNK_BYTES, MAX_SITES, MAX_UNITS, MAX_WIDTHS, check_limits
from strata_sae.stores.format.shards import ArraySpec

MAX_CHUNKS_PER_UNIT = 2**20
"""Of all arrays of all sites: the indices of a unit's shards are made in memory, 16 bytes a chunk."""
GROUPS_HELD = 4
"""Groups of rows in memory at once: one is run, two wait, one is written (`UnitFiller`)."""
RECORD_BYTES_PER_COLUMN = 128
"""Upper bound of what a unit's commit record, or a site's statistics, say of a column: four numbers."""
ONCE_BYTES = 2**20
"""Allowance for what a store has once: plan, vocabulary, MANIFEST."""
BLOCK_BYTES = 4096
"""A file takes whole blocks of a disk."""
_BLOCK_TOKENS = 2**22


def check_settings(plan: Plan) -> None:
    """The limits that need no text, of a stand-in with one unit of rows. Raises: ConfigError, as `check_draft` does."""
    for refusal in (*_format(plan), *_memory(plan)):
        raise ConfigError(refusal)


def check_draft(path: Path, plan: Plan, arrangement: Arrangement, description: Description) -> None:
    """Raises: ConfigError naming the key, what was found and what is allowed, for the first limit that is exceeded."""
    for refusal in _refusals(path, plan, arrangement, description):
        raise ConfigError(refusal)
    try:
        check_limits(plan)
        parse_canonical(plan.data, "plan.json")
    except (StoreError, ValueError) as error:
        raise ConfigError(f"corpus, store: no store can be planned so ({error}); ask for less of it") from None


def _refusals(path: Path, plan: Plan, arrangement: Arrangement, description: Description) -> Iterator[str]:
    yield from _format(plan)
    yield from _tokens(arrangement, description)
    yield from _memory(plan)
    yield from _disk(path, plan)


def _format(plan: Plan) -> Iterator[str]:
    columns, widest = sum(plan.sites.values()), max(plan.sites.values())
    if len(plan.sites) > MAX_SITES or columns > MAX_WIDTHS:
        yield (
            f"store.sites: {len(plan.sites):,} sites of {columns:,} columns together; a store holds {MAX_SITES:,} "
            f"and {MAX_WIDTHS:,} at most; split them over several stores"
        )
    if widest * 4 * plan.rows_per_chunk > MAX_CHUNK_BYTES:
        yield (
            f"store.chunk_bytes: chunks of {plan.rows_per_chunk:,} rows, {widest * 4 * plan.rows_per_chunk:,} bytes as "
            f"float32 at the widest site; {MAX_CHUNK_BYTES:,} at most: lower it"
        )
    if plan.n_units > MAX_UNITS:
        yield (
            f"store.shard_bytes: {plan.n_units:,} units of {plan.rows_per_unit:,} rows; a store has {MAX_UNITS:,} at "
            f"most; raise it"
        )
    chunks = sum(spec.chunks_per_shard for specs in plan.site_specs.values() for spec in specs.values())
    if chunks > MAX_CHUNKS_PER_UNIT:
        yield (
            f"store.shard_bytes: a unit of {chunks:,} chunks, all sites together; {MAX_CHUNKS_PER_UNIT:,} at most; "
            f"lower it, or raise store.chunk_bytes"
        )


def _tokens(arrangement: Arrangement, description: Description) -> Iterator[str]:
    if description.n_embeddings is None:
        return
    token_id = arrangement.spool.token_id
    largest = max(int(np.max(token_id[at : at + _BLOCK_TOKENS])) for at in range(0, len(token_id), _BLOCK_TOKENS))
    if largest >= description.n_embeddings:
        yield (
            f"model.path: the tokenizer gives token {largest:,}, and the model has {description.n_embeddings:,} "
            f"embeddings, counted from 0; do the tokenizer's files and config.json belong together?"
        )


def _memory(plan: Plan) -> Iterator[str]:
    needed, free = filling_bytes(plan), free_bytes(torch.device("cpu"))
    if needed > free:
        yield (
            f"model.batch_tokens: filling a unit takes {needed:,} bytes of memory beside the model, and {free:,} are "
            f"free; lower it (or store.chunk_bytes), or store fewer sites"
        )


def _disk(path: Path, plan: Plan) -> Iterator[str]:
    needed, free = disk_bytes(plan), shutil.disk_usage(path.parent).free
    if needed > free:
        yield (
            f"store.path: {path} needs {needed:,} bytes and its disk has {free:,} free; "
            f"lower corpus.n_tokens, store fewer sites, or set store.path to another disk"
        )
    found = os.statvfs(path.parent)
    # A file system without a fixed number of files says 0 of 0.
    if found.f_files and n_files(plan) > found.f_favail:
        yield (
            f"store.shard_bytes: {n_files(plan):,} files, and the disk of {path} has room for {found.f_favail:,} more; "
            f"raise it, or set store.path to another disk"
        )


def disk_bytes(plan: Plan) -> int:
    """What a finished store takes of a disk at most, but for compression that makes nothing smaller."""
    records = RECORD_BYTES_PER_COLUMN * sum(plan.sites.values()) * (plan.n_units + 1)
    return activation_bytes(plan) + token_map_bytes(plan) + records + ONCE_BYTES + BLOCK_BYTES * n_files(plan)


def n_data_files(plan: Plan) -> int:
    """Files that hold rows: the shards of every array of sites, columns and token map."""
    token_files = sum(spec.n_shards for spec in plan.token_specs.values())
    return plan.n_units * len(plan.unit_files(0)) + len(plan.calibration_files()) + token_files


def n_files(plan: Plan) -> int:
    """Data files, a commit record and a timing of each unit, and what there is once."""
    return n_data_files(plan) + 2 * plan.n_units + len(plan.metadata_files()) + len(plan.sites) + 8


def filling_bytes(plan: Plan) -> int:
    """Memory that filling a unit takes at most, the model and its forward pass left out."""
    batch_tokens = as_int(as_object(plan.config["model"])["batch_tokens"])
    context_length = as_int(as_object(plan.config["corpus"])["context_length"])
    item_bytes = 2 if plan.encoding == "bfloat16" else 4
    columns = sum(plan.sites.values())
    group_rows = max(GROUP_BATCHES * batch_tokens, context_length)
    held = GROUPS_HELD * min(group_rows, plan.n_rows) * columns * item_bytes
    arrays = [spec for specs in plan.site_specs.values() for spec in specs.values()]
    chunks = sum(2 * _chunk_bytes(spec) for spec in arrays)  # as collected, and as encoded
    calibration = sum(stop - start for start, stop in plan.calibration or [])
    return held + chunks + 2 * calibration * columns * 4  # twice: in pieces, and joined


def _chunk_bytes(spec: ArraySpec) -> int:
    return spec.rows_per_chunk * int(np.prod(spec.shape[1:])) * np.dtype(spec.dtype).itemsize
