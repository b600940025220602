"""The files of one segment, written durably and read back, before any of them has a name in the codes store."""

from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np

from strata_sae.stores.codes.gaps import blocks, gaps_of
from strata_sae.stores.codes.layout import RECORD, SegmentRecord, array_specs, metadata_files, record_json, segment_path
from strata_sae.stores.codes.plan import CodesPlan
from strata_sae.stores.codes.segment import SegmentCodes
from strata_sae.stores.codes.stored_segment import StoredSegment
from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.filesystem import FileSystem, write_new
from strata_sae.stores.files.places import LocalPlace
from strata_sae.stores.format.records import FileRecord
from strata_sae.stores.format.shards import ArraySpec
from strata_sae.stores.writing.shards import ShardWriter

_BLOCK_ENTRIES = 2**16


def fill(files: FileSystem, folder: Path, plan: CodesPlan, segment: int, codes: SegmentCodes) -> None:
    """Write the files of a segment under `folder`, which is empty, as they are to lie in the codes store.

    Raises: StoreError if what is read back is not what was written; OSError.
    """
    specs = array_specs(plan, segment, len(codes.row_latent))
    base = folder / segment_path(segment)
    folders = [base.parent, base, base / "latent", base / "row"]
    folders += [folder / path for spec in specs.values() for path in (spec.path, f"{spec.path}/c")]
    for path in folders:
        files.make_folder(path)
    records: dict[str, FileRecord] = {}
    crcs: dict[str, int] = {}
    for name, spec in specs.items():
        crcs[name] = _write_array(files, folder, spec, _blocks_of(name, codes), records)
    record = SegmentRecord(len(codes.row_latent), records)
    for relative, data in metadata_files(plan, segment, record.n_pairs).items():
        write_new(files, folder / relative, data)
    write_new(files, base / RECORD, record_json(plan, segment, record))
    for path in reversed(folders):
        files.sync_folder(path)
    found = StoredSegment(LocalPlace(folder, mapped=False), plan, segment, record)
    if wrong := [name for name, crc in crcs.items() if found.crc32c(name) != crc]:
        raise StoreError(f"{base}: {wrong[0]} reads back otherwise than it was written; the disk or the memory failed")


def _write_array(
    files: FileSystem, folder: Path, spec: ArraySpec, blocks: Iterator[np.ndarray], records: dict[str, FileRecord]
) -> int:
    """Write an array, and its record into `records`. Returns: the crc32c of its entries before compression."""
    if not spec.n_shards:
        return 0
    path, crc = spec.shard_path(0), 0
    writer = ShardWriter(files, folder / path, spec)
    try:
        for block in blocks:
            stored = block.astype(spec.dtype)
            crc = google_crc32c.extend(crc, stored.tobytes())
            writer.append(stored)
        records[path] = writer.finish()._replace(path=path)
    finally:
        writer.close()
    return crc


def _blocks_of(name: str, codes: SegmentCodes) -> Iterator[np.ndarray]:
    """What is written of an array, piece by piece."""
    if name == "latent/gap":
        for first, last in blocks(codes.latent_offset):
            begin, end = int(codes.latent_offset[first]), int(codes.latent_offset[last])
            yield gaps_of(codes.latent_row[begin:end], codes.latent_offset[first : last + 1] - begin)
        return
    array: np.ndarray = getattr(codes, name.replace("/", "_"))
    for first in range(0, len(array), _BLOCK_ENTRIES):
        yield array[first : first + _BLOCK_ENTRIES]
