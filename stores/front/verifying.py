"""The two levels of `verify`: quick reads what ties every file to its place, deep reads every byte."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import parse_canonical
from strata_sae.stores.files.hashing import file_sha256
from strata_sae.stores.files.places import LocalPlace
from strata_sae.stores.format.commits import commits, read_listed, statistics_name
from strata_sae.stores.format.plan import PLAN, TIMINGS, Plan
from strata_sae.stores.format.plan_file import read_plan
from strata_sae.stores.format.statistics import statistics_problem
from strata_sae.stores.format.vocabulary import read_tokens
from strata_sae.stores.reading.array import StoredArray
from strata_sae.stores.reading.checking import Contents, check_opened
from strata_sae.stores.reading.site_rows import site_rows
from strata_sae.stores.writing.finishing import read_timing

T = TypeVar("T")
R = TypeVar("R")
_QUICK = {
    1: "sizes, small files and token map by their hashes, norms by each unit's statistics, some rows by their norms",
    2: "sizes, small files by their hashes, every shard's index and chunk checksums by those recorded for its place",
}


def verify(path: Path, deep: bool = False) -> list[str]:
    """Problems of a store, each with its file; none means it is whole as far as `verified_level` says."""
    try:
        plan = read_plan(path)
        contents = check_opened(path, plan)
    except StoreError as error:
        return [str(error)]
    found = list(_in_other_places(path, plan, contents))
    if deep:
        found += _hash_problems(path, plan, contents)
        found += _description_problems(path, plan, contents)
    return found


def verified_level(path: Path, deep: bool) -> str:
    """What `verify` compares, in words."""
    quick = _QUICK[read_plan(path).version]
    return f"{quick}; every byte by its file's hash" if deep else f"{quick}; --deep also reads every byte"


def _in_other_places(store: Path, plan: Plan, contents: Contents) -> Iterator[str]:
    """Files that are not those that were written in their place, found without reading all rows."""
    place = LocalPlace(store, mapped=False)
    for spec in plan.arrays():
        array = StoredArray(place, spec, contents.arrays[spec.path])
        yield from _problems(array.check_shard, range(spec.n_shards))
    extras = set(plan.files).difference(*(spec.shard_paths() for spec in plan.token_specs.values()))
    yield from _problems(lambda name: read_listed(store, name, plan.files[name].sha256, by=PLAN), sorted(extras))
    if plan.version == 1:  # no chunk has a checksum of its own in the records: its rows are held against their norms
        chunks = range(0, -(-plan.n_rows // plan.rows_per_chunk), plan.rows_per_unit // plan.rows_per_chunk)
        try:
            for rows, _ in site_rows(place, plan, contents.arrays).values():
                yield from _problems(rows.coded, chunks)
        except StoreError as error:
            yield str(error)


def _problems(check: Callable[[T], R], items: Iterable[T]) -> Iterator[str]:
    for item in items:
        try:
            check(item)
        except StoreError as error:
            yield str(error)


def _hash_problems(store: Path, plan: Plan, contents: Contents) -> Iterator[str]:
    for name, record in sorted(contents.files.items()):
        if file_sha256(store / name) != record.sha256:
            yield f"{name}: its sha256 is not the recorded one; the file is damaged, fetch it again"


def _description_problems(store: Path, plan: Plan, contents: Contents) -> Iterator[str]:
    """What the token bytes, the statistics and the timings say, beyond their hashes."""
    try:
        read_tokens(store, plan)
        units = [record.statistics for key, record in commits(store, plan, contents.hashes) if isinstance(key, int)]
        for site, d_model in plan.sites.items():
            name = statistics_name(site)
            found = parse_canonical(read_listed(store, name, contents.hashes[name]), store / name)
            if problem := statistics_problem(found, [record[site] for record in units], d_model):
                yield f"{name}: {problem}"
    except StoreError as error:
        yield str(error)
    yield from _problems(read_timing, sorted((store / TIMINGS).glob("*")))
