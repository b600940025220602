"""What a planned store will cost, in words and against the limits of the format and of this machine."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from strata_sae.pipeline.available import free_bytes
from strata_sae.pipeline.config.run import ExtractConfig
from strata_sae.pipeline.config.training import TrainingSettings, window_rows
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.spool import Arrangement
from strata_sae.pipeline.language_model.inputs import GROUP_BATCHES, Recorded
from strata_sae.pipeline.language_model.loading import Description
from strata_sae.stores import (
    MAX_CHUNK_BYTES,
    MAX_SITES,
    MAX_UNITS,
    MAX_WIDTHS,
    Plan,
    StoreError,
    activation_bytes,
    check_limits,
    documents_per_window,
    predicted_variance_ratio,
    token_map_bytes,
)
from strata_sae.stores.files.canonical import parse_canonical
from strata_sae.stores.files.filesystem import missing_space

MAX_CHUNKS_PER_UNIT = 2**20
"""Of all arrays of all sites: the indices of a unit's shards are made in memory, 16 bytes a chunk."""
GROUPS_HELD = 4
"""Groups of rows in memory at once: one is run, two wait, one is written (`UnitFiller`)."""
RECORD_BYTES_PER_COLUMN = 128
"""Upper bound of what a unit's commit record, or a site's statistics, hold of a column: four numbers."""
ONCE_BYTES = 2**20
"""Upper bound of the files that a store has once: plan, vocabulary, MANIFEST."""
BLOCK_BYTES = 4096
"""A file takes whole blocks of a disk."""
_BLOCK_TOKENS = 2**22


def check_settings(plan: Plan) -> None:
    """Check the limits that do not depend on the text, for a plan of one unit. Raises: as `check_draft`."""
    _check_format(plan)
    _check_memory(plan)


def check_draft(
    path: Path, plan: Plan, arrangement: Arrangement, description: Description, extra_bytes: int = 0
) -> None:
    """`extra_bytes`: of files that are kept beside the rows.

    Raises: ConfigError naming the key, what was found and what is allowed, for the first limit that is exceeded.
    """
    _check_format(plan)
    _check_vocabulary(arrangement, description)
    _check_memory(plan)
    _check_disk(path, plan, extra_bytes)
    try:
        check_limits(plan)
        parse_canonical(plan.data, "plan.json")
    except (StoreError, ValueError) as error:
        raise ConfigError(f"corpus, store: such a store cannot be planned ({error}); ask for less") from None


def _check_format(plan: Plan) -> None:
    columns, widest = sum(plan.sites.values()), max(plan.sites.values())
    if len(plan.sites) > MAX_SITES or columns > MAX_WIDTHS:
        raise ConfigError(
            f"store.sites: {len(plan.sites):,} sites of {columns:,} columns together; a store holds {MAX_SITES:,} "
            f"and {MAX_WIDTHS:,} at most; split them over several stores"
        )
    if widest * 4 * plan.rows_per_chunk > MAX_CHUNK_BYTES:
        raise ConfigError(
            f"store.chunk_bytes: chunks of {plan.rows_per_chunk:,} rows, {widest * 4 * plan.rows_per_chunk:,} bytes as "
            f"float32 at the widest site; {MAX_CHUNK_BYTES:,} at most: lower it"
        )
    if plan.n_units > MAX_UNITS:
        raise ConfigError(
            f"store.shard_bytes: {plan.n_units:,} units of {plan.rows_per_unit:,} rows; a store has {MAX_UNITS:,} at "
            f"most; raise it"
        )
    chunks = sum(spec.chunks_per_shard for specs in plan.site_specs.values() for spec in specs.values())
    if chunks > MAX_CHUNKS_PER_UNIT:
        raise ConfigError(
            f"store.shard_bytes: a unit of {chunks:,} chunks, all sites together; {MAX_CHUNKS_PER_UNIT:,} at most; "
            f"lower it, or raise store.chunk_bytes"
        )


def _check_vocabulary(arrangement: Arrangement, description: Description) -> None:
    if description.n_embeddings is None:
        return
    token_id = arrangement.spool.token_id
    largest = max(int(np.max(token_id[at : at + _BLOCK_TOKENS])) for at in range(0, len(token_id), _BLOCK_TOKENS))
    if largest >= description.n_embeddings:
        raise ConfigError(
            f"model.path: the tokenizer gives token {largest:,}, and the model has {description.n_embeddings:,} "
            f"embeddings, counted from 0; do the tokenizer's files and config.json belong together?"
        )


def _check_memory(plan: Plan) -> None:
    needed, free = filling_bytes(plan), free_bytes(torch.device("cpu"))
    if needed > free:
        raise ConfigError(
            f"model.batch_tokens: filling a unit takes {needed:,} bytes of memory beside the model, and {free:,} are "
            f"free; lower it (or store.chunk_bytes), or store fewer sites"
        )


def _check_disk(path: Path, plan: Plan, extra_bytes: int) -> None:
    if problem := missing_space(path.parent, disk_bytes(plan) + extra_bytes):
        raise ConfigError(
            f"store.path: {path} {problem}; lower corpus.n_tokens, store fewer sites, or set store.path to another disk"
        )
    found = os.statvfs(path.parent)
    # A file system without a fixed number of files says 0 of 0.
    if found.f_files and n_files(plan) > found.f_favail:
        raise ConfigError(
            f"store.shard_bytes: {n_files(plan):,} files, and the disk of {path} has room for {found.f_favail:,} more; "
            f"raise it, or set store.path to another disk"
        )


def disk_bytes(plan: Plan) -> int:
    """Upper bound of the bytes that a finished store takes on a disk, compression left out."""
    records = RECORD_BYTES_PER_COLUMN * sum(plan.sites.values()) * (plan.n_units + 1)
    return activation_bytes(plan) + token_map_bytes(plan) + records + ONCE_BYTES + BLOCK_BYTES * n_files(plan)


def n_data_files(plan: Plan) -> int:
    """Files that hold rows: the shards of every array of sites, columns and token map."""
    token_files = sum(spec.n_shards for spec in plan.token_specs.values())
    return plan.n_units * len(plan.unit_files(0)) + len(plan.calibration_files()) + token_files


def n_files(plan: Plan) -> int:
    """Data files, a commit record and a timing of each unit, and the files that a store has once."""
    return n_data_files(plan) + 2 * plan.n_units + len(plan.metadata_files()) + len(plan.sites) + 8


def filling_bytes(plan: Plan) -> int:
    """Memory that filling a unit takes at most, beside the model and its forward pass."""
    recorded = Recorded.of(plan)
    item_bytes = 2 if plan.encoding == "bfloat16" else 4
    columns = sum(plan.sites.values())
    group_rows = max(GROUP_BATCHES * recorded.model.batch_tokens, recorded.corpus.context_length)
    held = GROUPS_HELD * min(group_rows, plan.n_rows) * columns * item_bytes
    arrays = [spec for specs in plan.site_specs.values() for spec in specs.values()]
    chunks = sum(spec.rows_per_chunk * int(np.prod(spec.shape[1:])) * np.dtype(spec.dtype).itemsize for spec in arrays)
    calibration = sum(stop - start for start, stop in plan.calibration or [])
    # Chunks twice: as collected, and as encoded. The calibration twice: in pieces, and joined.
    return held + 2 * chunks + 2 * calibration * columns * 4


def describe_draft(config: ExtractConfig, model_name: str, plan: Plan, arrangement: Arrangement) -> str:
    """What the store will hold and cost, and how well the training window will mix documents."""
    return "\n".join(f"{title:<11}{line}" for title, line in _lines(config, model_name, plan, arrangement))


def _lines(config: ExtractConfig, model_name: str, plan: Plan, arrangement: Arrangement) -> Iterator[tuple[str, str]]:
    """(title, line) of all that `strata plan` says; there may be several lines of one title, or none."""
    corpus, spool, train_rows = config.corpus, arrangement.spool, arrangement.splits["train"][1]
    yield "model", f"{model_name} ({config.model.dtype})"
    yield (
        "tokens",
        f"{plan.n_rows:,} of {plan.n_documents:,} documents; {train_rows:,} to train on, "
        f"{plan.n_rows - train_rows:,} held out; {spool.skipped_documents} short documents skipped",
    )
    yield (
        "copies",
        f"{arrangement.copies:,} of {plan.n_documents:,} documents have the tokens of an earlier one; "
        f"all documents of the same tokens are on one side of the split",
    )
    yield from (("held out", line) for line in _unlike_asked(corpus.heldout_fraction, plan.n_rows, train_rows))
    yield from (("corpus", line) for line in spool.lines)
    for site, width in plan.sites.items():
        yield "site", f"{site}: {width} wide, {plan.bytes_per_row(site):,} bytes a token"
    exact = "bytes" if plan.compressor == "none" else "bytes before compression"
    yield (
        "store",
        f"{activation_bytes(plan):,} {exact}, and a token map of at most {token_map_bytes(plan):,}; "
        f"{n_data_files(plan):,} data files",
    )
    if corpus.mode == "sequential":
        yield "sequences", f"documents alone, the first {corpus.context_length} tokens of each"
    else:
        isolated = ", none of which sees another" if corpus.isolate_documents else " as one text"
        yield "sequences", f"{corpus.context_length} tokens of joined documents{isolated}"
    yield "units", f"{plan.n_units} of {plan.rows_per_unit:,} rows, chunks of {plan.rows_per_chunk:,} rows"
    yield "memory", f"{filling_bytes(plan) / 1e9:.3g} GB to fill a unit, beside the model"
    if config.training is not None:
        yield from (("training", line) for line in _epochs(config, config.training, train_rows))
        yield from (("mixing", line) for line in _mixing(config, config.training, plan, arrangement))


def _unlike_asked(fraction: float, n_rows: int, train_rows: int) -> Iterator[str]:
    """That the held-out share of the tokens is far from `corpus.heldout_fraction`, which counts documents."""
    share = 1 - train_rows / n_rows
    if share > 2 * fraction > 0:  # half of that or less is as unlike, and leaves more to train on, so nothing is said
        yield (
            f"{share:.0%} of the tokens, where corpus.heldout_fraction is {fraction:g}: it counts documents, and few "
            "or very unequal ones are far from it; give more, or cut them by a `separator`"
        )


def _epochs(config: ExtractConfig, training: TrainingSettings, train_rows: int) -> Iterator[str]:
    """How many updates `training.epochs` are, for each batch size."""
    if training.epochs is None:
        return
    for batch_size in dict.fromkeys(batch_size for *_, batch_size in _batches(config, training)):
        yield (
            f"{training.epochs:g} epochs in batches of {batch_size:,} are "
            f"{max(1, int(training.epochs * train_rows / batch_size)):,} updates, or fewer after training.filters"
        )


def _mixing(config: ExtractConfig, training: TrainingSettings, plan: Plan, arrangement: Arrangement) -> Iterator[str]:
    """A line for each window that training will serve: how large it is depends on the sites and on the batch size."""
    train_rows = arrangement.splits["train"][1]
    starts = arrangement.starts[arrangement.starts <= train_rows]
    served: dict[tuple[int, int], list[str]] = {}
    for name, sites, batch_size in _batches(config, training):
        rows = window_rows(training, sum(plan.bytes_per_row(site) for site in sites), batch_size)
        served.setdefault((rows, batch_size), []).append(name)
    for (rows, batch_size), names in served.items():
        blocks = max(1, rows // plan.rows_per_chunk)
        documents = documents_per_window(starts, plan.rows_per_chunk, blocks)
        ratio = predicted_variance_ratio(starts, plan.rows_per_chunk, blocks, batch_size)
        where = f"{', '.join(dict.fromkeys(names))}, batches of {batch_size:,}: " if len(served) > 1 else ""
        spanned = f"{documents:,.0f} document{'' if round(documents) == 1 else 's'}"
        capped = f" ({training.window_rows:,} asked for, capped by training.window_bytes)"
        yield (
            f"{where}a window of {min(blocks * plan.rows_per_chunk, train_rows):,} rows"
            f"{capped if rows < min(training.window_rows, train_rows) else ''} spans {spanned}; "
            f"variance of a batch mean {ratio:.2f} x a perfect shuffle's"
        )


def _batches(config: ExtractConfig, training: TrainingSettings) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """(site or route, the sites that are read together, rows of a batch) of every SAE that the config trains."""
    for variant in config.trained_variants().values():
        batch_size = variant.merged(training).batch_size
        if variant.route is not None:
            yield variant.route.name, variant.route.sites, batch_size
        else:
            for site in config.sae_sites():
                yield site, (site,), batch_size
