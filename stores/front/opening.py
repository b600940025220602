"""Opening a store wherever it lies: here, by way of a nearer disk, or behind a URL."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files import environment
from strata_sae.stores.files.mounts import is_safe_to_map
from strata_sae.stores.files.places import Identity, LocalPlace, Place
from strata_sae.stores.format.folders import cache_root
from strata_sae.stores.format.plan import ARRAYS, EXTRAS, Plan
from strata_sae.stores.format.plan_file import read_plan
from strata_sae.stores.format.records import FileRecord
from strata_sae.stores.reading.array import StoredArray
from strata_sae.stores.reading.checking import Contents, check_opened, read_contents
from strata_sae.stores.reading.chunk_cache import CachedRows, ChunkCache
from strata_sae.stores.reading.site_rows import SiteRows, site_rows
from strata_sae.stores.reading.staged import StagedPlace, files_to_stage
from strata_sae.stores.remote.pull import open_head
from strata_sae.stores.remote.transports import is_url

IO = ("auto", "mmap", "pread")
_CACHE_BYTES = 50 * 2**30
_KEPT_WHOLE = ("norm", "scale", "column_offset", "column_scale")


class Opened(NamedTuple):
    """A store that was checked, and how its files are reached."""

    folder: Path
    """Local folder with all but, perhaps, the arrays."""
    plan: Plan
    contents: Contents
    place: Place
    cache: ChunkCache | None


def open_at(where: Path | str, io: str, stage: Path | None, stage_sites: list[str] | None) -> Opened:
    """Check a store and find its bytes. Raises: StoreError."""
    if io not in IO:
        raise StoreError(f"io: {io!r} is not one of {', '.join(IO)}")
    if is_url(str(where)):
        opened = _remote(str(where))
    else:
        folder = Path(where).expanduser()
        plan = read_plan(folder)
        mapped = io == "mmap" or (io == "auto" and is_safe_to_map(folder))
        seen: dict[str, Identity] = {}
        contents = check_opened(folder, plan, seen)
        opened = Opened(folder, plan, contents, LocalPlace(folder, mapped=mapped, identities=seen), cache=None)
    if stage is None:
        return opened
    sites = [site for site in stage_sites or opened.plan.sites if site in opened.plan.sites]
    wanted = files_to_stage(opened.folder, opened.plan, sites, (0, opened.plan.n_rows))
    place = StagedPlace(opened.place, stage, wanted)
    for _ in place.stage(wanted):
        pass
    return opened._replace(place=place, cache=None)


def opened_sites(opened: Opened) -> dict[str, tuple[SiteRows, StoredArray]]:
    """Rows and norms of every site, the rows by way of the cache where there is one."""
    found = site_rows(opened.place, opened.plan, opened.contents.arrays)
    if opened.cache is None:
        return found
    return {
        site: (CachedRows(rows, opened.cache, partial(_hashes, opened.plan, site, opened.contents.files)), norms)
        for site, (rows, norms) in found.items()
    }


def _hashes(plan: Plan, site: str, records: dict[str, FileRecord], chunk: int) -> str:
    """The sha256 of the files that hold a chunk of a site's rows: one of two planes may be that of another store."""
    specs = [spec for name, spec in sorted(plan.site_specs[site].items()) if name != "norm"]
    return " ".join(records[spec.shard_path(chunk // spec.chunks_per_shard)].sha256 for spec in specs)


def _remote(url: str) -> Opened:
    root = cache_root()
    head = open_head(url, root)
    # What every epoch reads in full is small, and kept whole; of the rows, only the chunks that are read are fetched.
    contents = read_contents(head.folder, head.plan)
    kept = {
        path: record
        for path, record in contents.files.items()
        if path.startswith((f"{ARRAYS}/tokens/", f"{EXTRAS}/"))
        or (path.split("/")[3:4] and path.split("/")[3] in _KEPT_WHOLE)
    }
    place = StagedPlace(head.place, root / "files", kept)
    return Opened(head.folder, head.plan, contents, place, _cache())


def _cache() -> ChunkCache:
    return ChunkCache(cache_root() / "chunks", environment.size_bytes(environment.CACHE_BYTES, _CACHE_BYTES))
