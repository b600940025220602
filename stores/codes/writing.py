"""Codes are written segment by segment, by any number of processes; a segment is there, whole, or it is not."""

import os
import re
import uuid
from pathlib import Path

from strata_sae.stores.codes.filling import fill
from strata_sae.stores.codes.layout import RECORD, SEGMENTS, read_record, segment_path
from strata_sae.stores.codes.plan import CODES, CodesPlan, check_codes_plan, check_same, parse_codes_plan
from strata_sae.stores.codes.segment import SegmentCodes, check_codes
from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.beats import STILL_SECONDS
from strata_sae.stores.files.canonical import read_plain
from strata_sae.stores.files.claims import Claim, bury, claim
from strata_sae.stores.files.filesystem import FileSystem, make_folder, naming, publish_exclusive
from strata_sae.stores.files.locks import Lease, remove_dead
from strata_sae.stores.format.folders import refuse_inside_a_store
from strata_sae.stores.format.plan import STAGING

_DRAFT, _CLAIM = "draft-", "claim-"
_CLAIM_LOCK = re.compile(rf"{_CLAIM}[a-z0-9]+(\.lock)+")


def create_codes(folder: Path, plan: CodesPlan, *, files: FileSystem | None = None) -> None:
    """Begin a codes store, or go on with one of the same plan; what dead writers left in it is removed.

    Raises: StoreError if the folder holds codes of another plan, or the plan is none.
    """
    files = files or FileSystem()
    try:
        check_codes_plan(plan)
    except ValueError as error:
        raise StoreError(f"{folder}: no codes store can hold this ({error})") from None
    refuse_inside_a_store(folder, "the codes")
    if (folder / CODES).exists():
        check_same(folder, read_codes_plan(folder), plan)
    make_folder(folder.parent)
    for path in (folder, folder / SEGMENTS, folder / STAGING):
        files.make_folder(path)
        files.sync_folder(path.parent)
    remove_leftovers(files, folder)
    if not (folder / CODES).exists():
        with naming(folder / CODES), draft(files, folder) as drafts:
            publish_exclusive(files, drafts / CODES, folder / CODES, plan.data)
    check_same(folder, read_codes_plan(folder), plan)  # another process may have been faster


def read_codes_plan(folder: Path) -> CodesPlan:
    """The plan of a codes store, finished or not. Raises: StoreError if there is none, or it is damaged."""
    try:
        return parse_codes_plan(read_plain(folder / CODES), folder / CODES)
    except FileNotFoundError:
        raise StoreError(f"{folder}: no codes store; make it with strata codes") from None


def missing_segments(folder: Path, plan: CodesPlan) -> list[int]:
    """Segments that are not there yet. Raises: StoreError if one that is there is damaged, or of other codes."""
    return [segment for segment in range(plan.n_segments) if read_record(folder, plan, segment) is None]


def claim_segment(folder: Path, plan: CodesPlan, segment: int, *, run: str = "") -> Claim | None:
    """The right to make a missing segment, which is given back by `release`, or at the end of a `with` block.

    Two that make one at once do no harm, since both write equal bytes, but for the time.

    Args:
        run: names the run of an engine that this process is part of.
    Returns: None if another living process holds the right, or the segment is there.

    """
    held = claim(folder / STAGING / f"{_CLAIM}{segment}", run=run)
    if held is not None and read_record(folder, plan, segment) is not None:
        held.release()
        return None
    return held


def write_segment(
    folder: Path, plan: CodesPlan, segment: int, codes: SegmentCodes, *, files: FileSystem | None = None
) -> None:
    """Write one segment, whole or not at all; one that is there stays as it is.

    When this returns it survives a power cut. What was written is read back before it appears.

    Raises: StoreError if these are no codes of this segment, or others have taken this process for dead; OSError.
    """
    files = files or FileSystem()
    check_codes(plan, segment, codes)
    target = folder / segment_path(segment)
    with naming(target), draft(files, folder) as drafts:
        if read_record(folder, plan, segment) is None:
            try:
                fill(files, drafts, plan, segment, codes)
                _publish(files, drafts / segment_path(segment), target)
            except FileNotFoundError:
                if drafts.exists():
                    raise
                raise StoreError(
                    f"{folder}: segment {segment} was taken over by another process, which saw no sign of life of "
                    f"this one for {STILL_SECONDS:.0f} s; run the same command again: what is there is kept"
                ) from None
        files.sync_folder(target.parent)  # also where another process put it there, which may have died since


def draft(files: FileSystem, folder: Path) -> Lease:
    """A folder to write in, which is removed at the end, or by others when this process has died."""
    files.make_folder(folder / STAGING)
    return Lease(files, folder / STAGING / f"{_DRAFT}{uuid.uuid4().hex[:12]}")


def finishing_claim(folder: Path) -> Claim | None:
    """The right to finish the codes store; None while another living process holds it."""
    return claim(folder / STAGING / f"{_CLAIM}finish")


def remove_leftovers(files: FileSystem, folder: Path) -> None:
    """Remove what dead writers were at, and their claims."""
    staging = folder / STAGING
    for lock in sorted(os.listdir(staging)):
        if _CLAIM_LOCK.fullmatch(lock):
            bury(staging / lock.removesuffix(".lock"))
    remove_dead(files, staging, _DRAFT)


def _publish(files: FileSystem, staged: Path, target: Path) -> None:
    try:
        files.rename(staged, target)
    except OSError:
        if not (target / RECORD).exists():
            raise
