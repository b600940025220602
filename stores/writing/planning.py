"""Creating a store: token map, metadata and plan appear together under the final name, or not at all."""

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NotRequired, TypedDict, Unpack

import numpy as np

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import Json
from strata_sae.stores.files.filesystem import FileSystem, write_new
from strata_sae.stores.files.hashing import sha256
from strata_sae.stores.files.locks import Lease, planning_prefix, remove_dead
from strata_sae.stores.format.commits import commit_folders
from strata_sae.stores.format.encodings import CODECS
from strata_sae.stores.format.folders import refuse_inside_a_store
from strata_sae.stores.format.plan import EXTRAS, PLAN, STATISTICS, TIMINGS, TOKEN_BYTES, Plan, group_paths
from strata_sae.stores.format.plan_file import parse_plan, read_plan
from strata_sae.stores.format.records import FileRecord, Lineage
from strata_sae.stores.format.vocabulary import Token, tokens_json
from strata_sae.stores.writing.shards import ShardWriter


class PlanFields(TypedDict):
    """Fields of `Plan` that the caller of `create_store` gives."""

    splits: dict[str, tuple[int, int]]
    sites: dict[str, int]
    encoding: str
    compressor: str
    rows_per_chunk: int
    rows_per_unit: int
    config: dict[str, Json]
    provenance: dict[str, Json]
    lineage: NotRequired[Lineage | None]
    calibration: NotRequired[list[tuple[int, int]] | None]


@dataclass(frozen=True)
class Layout:
    """Rows per chunk and per unit, from sizes in bytes."""

    rows_per_chunk: int
    rows_per_unit: int


def layout(sites: dict[str, int], encoding: str, chunk_bytes: int, shard_bytes: int) -> Layout:
    """Chunks of about `chunk_bytes` at the widest site (a power of two of rows), shards of at most `shard_bytes`."""
    row_bytes = max(sites.values()) * int(CODECS[encoding].dtype[-1])
    rows_per_chunk = 1 << max(0, round(np.log2(max(1.0, chunk_bytes / row_bytes))))
    chunks_per_unit = max(1, shard_bytes // (rows_per_chunk * row_bytes))
    return Layout(rows_per_chunk, rows_per_chunk * (1 << (int(chunks_per_unit).bit_length() - 1)))


def create_store(
    path: Path,
    blocks: Iterator[dict[str, np.ndarray]],
    vocabulary: dict[int, Token],
    *,
    n_rows: int,
    n_documents: int,
    extras: dict[str, bytes] | None = None,
    files: FileSystem | None = None,
    **fields: Unpack[PlanFields],
) -> Plan:
    """Write a store's plan step at `path`; a plan that another worker put there meanwhile must be equal.

    Args:
        blocks: the token map in plan order, as arrays by field.
        vocabulary: what every token id that occurs stands for.
        extras: other files to keep with the rows, by name (docs/store.md says which names mean what).
        fields: the other fields of `Plan`, by their names.
    Raises: StoreError if something else is at `path`, or `path` lies inside a store.

    """
    files = files or FileSystem()
    refuse_inside_a_store(path, "the new store", may_be_one=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = planning_prefix(path)
    remove_dead(files, path.parent, prefix)
    with Lease(files, path.with_name(prefix + uuid.uuid4().hex[:12])) as draft:
        named = {**(extras or {}), TOKEN_BYTES: tokens_json(vocabulary)}
        planned = Plan(n_rows=n_rows, n_documents=n_documents, files={}, **fields)
        plan = _fill(files, draft, blocks, {f"{EXTRAS}/{name}": data for name, data in named.items()}, planned)
        _move(files, draft, path, plan)
    return plan


def _fill(
    files: FileSystem, draft: Path, blocks: Iterator[dict[str, np.ndarray]], extras: dict[str, bytes], planned: Plan
) -> Plan:
    folders = [*group_paths(planned.sites), STATISTICS, TIMINGS, EXTRAS]
    arrays = [spec.path for spec in planned.arrays()]
    for folder in [*folders, *arrays, *(f"{array}/c" for array in arrays)]:
        files.make_folder(draft / folder)
    records = {path: FileRecord(path, len(data), sha256(data)) for path, data in extras.items()}
    records |= _write_tokens(files, draft, blocks, planned)
    plan = replace(planned, files=records)
    plan = parse_plan(plan.data, draft / PLAN)  # what could not be read back is not written
    for name, data in (extras | plan.metadata_files() | {PLAN: plan.data}).items():
        write_new(files, draft / name, data)
    for folder in commit_folders(plan):
        files.make_folder(draft / folder)
    for folder in [*reversed([*folders, *commit_folders(plan), *arrays, *(f"{array}/c" for array in arrays)]), "."]:
        files.sync_folder(draft / folder)
    return plan


def _write_tokens(
    files: FileSystem, draft: Path, blocks: Iterator[dict[str, np.ndarray]], plan: Plan
) -> dict[str, FileRecord]:
    specs, n_rows = plan.token_specs, plan.n_rows
    records: dict[str, FileRecord] = {}
    writers: dict[str, ShardWriter] = {}
    shard = done = 0
    with ExitStack() as opened:
        for block in blocks:
            n_block = len(next(iter(block.values())))
            first = 0
            while first < n_block:
                if not writers:
                    for field, spec in specs.items():
                        writers[field] = ShardWriter(files, draft / spec.shard_path(shard), spec)
                        opened.callback(writers[field].close)
                rows_per_shard = next(iter(specs.values())).rows_per_shard
                take = min(n_block - first, rows_per_shard - done % rows_per_shard)
                for field, writer in writers.items():
                    writer.append(block[field][first : first + take])
                first, done = first + take, done + take
                if done % rows_per_shard == 0 or done == n_rows:
                    for field, writer in writers.items():
                        path = specs[field].shard_path(shard)
                        records[path] = writer.finish()._replace(path=path)
                    writers, shard = {}, shard + 1
    assert done == n_rows, f"the token map has {done} rows, the plan {n_rows}"
    return records


def _move(files: FileSystem, draft: Path, path: Path, plan: Plan) -> None:
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        _expect_same(path, plan)
    else:
        try:
            files.rename(draft, path)
        except OSError:
            if not (path / PLAN).is_file():
                raise
            _expect_same(path, plan)
    files.sync_folder(path.parent)  # also where another worker moved it, which may have died before this step


def _expect_same(path: Path, plan: Plan) -> None:
    if not (path / PLAN).is_file():
        raise StoreError(f"{path}: is there, is no empty folder and holds no store; choose another store.path")
    found = read_plan(path)
    if found.id != plan.id:
        raise StoreError(
            f"{path}: holds the store of another plan ({found.id[:12]}, wanted {plan.id[:12]}); "
            f"choose another name or store.path, or delete that folder"
        )
