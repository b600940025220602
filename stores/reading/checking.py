"""Is a store what its MANIFEST says? What opening checks: its small files, and the size of every other."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from strata_sae.stores.errors import StoreError, explain
from strata_sae.stores.files.canonical import read_plain, sha256
from strata_sae.stores.files.places import Identity, identity_of
from strata_sae.stores.format.arrays import COMMITS, MANIFEST, PLAN, STAGING, TIMINGS
from strata_sae.stores.format.contents import Contents, read_contents, read_listed, statistics_name
from strata_sae.stores.format.plan import Plan
from strata_sae.stores.format.sizes import largest_shard_bytes, shard_bytes

_SHOWN = 5


def check_opened(store: Path, plan: Plan, seen: dict[str, Identity] | None = None) -> Contents:
    """What opening checks: manifest, commit records, statistics, metadata, and the size of every file.

    `seen`: is told which file each name stood for, so that what is opened later can be compared.

    Raises: StoreError listing what is missing, extra, empty, truncated or not a plain file.
    """
    contents = read_contents(store, plan)
    _check_claims(store, plan, contents.sizes)
    metadata = plan.metadata_files()
    sizes: dict[str, int | None] = {PLAN: len(plan.data), MANIFEST: None, **dict.fromkeys(contents.hashes)}
    sizes |= {name: len(data) for name, data in metadata.items()} | contents.sizes
    try:
        found = dict(_walk(store, ".", _folders_of(sizes) | {TIMINGS}))
    except OSError as error:
        raise StoreError(f"{error.filename or store}: cannot be looked at ({explain(error)})") from None
    problems = list(_compare(sizes, found))
    if not problems:
        for site in plan.sites:
            read_listed(store, statistics_name(site), contents.hashes[statistics_name(site)])
        wrong = [name for name, data in metadata.items() if read_plain(store / name) != data]
        problems = [f"{name}: is not the metadata of this plan; fetch the file again" for name in wrong]
    if problems:
        rest = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise StoreError(f"{store}: " + "\n  ".join(problems[:_SHOWN]) + rest)
    if _manifest_hash(store) != contents.store_id:  # all that was looked at lies between these two readings
        raise StoreError(f"{store}: was replaced while it was opened; run the command again")
    if seen is not None:
        seen |= {name: identity for name, identity in found.items() if identity is not None}
    return contents


def _manifest_hash(store: Path) -> str:
    try:
        return sha256(read_plain(store / MANIFEST))
    except FileNotFoundError:
        return ""


def _check_claims(store: Path, plan: Plan, sizes: dict[str, int]) -> None:
    """No shard is larger than its rows need: what a plan and its commits claim is bounded before it is believed."""
    for spec in plan.arrays():
        for shard in range(spec.n_shards):
            claimed, needed = sizes[spec.shard_path(shard)], shard_bytes(spec, shard)
            if claimed > largest_shard_bytes(spec, shard) or (claimed < needed and spec.compressor == "none"):
                name = spec.shard_path(shard)
                raise StoreError(f"{store}: {name} is said to have {claimed} bytes; its rows take {needed}")


def _compare(sizes: dict[str, int | None], found: dict[str, Identity | None]) -> Iterator[str]:
    for name in sorted(set(sizes) - set(found)):
        yield f"{name}: missing; fetch the file again"
    timed = {f"{TIMINGS}/{Path(name).name}" for name in sizes if name.startswith(f"{COMMITS}/")}
    for name, identity in sorted(found.items()):
        shown = name if name.isprintable() else ascii(name)  # a name can hold what a terminal obeys
        if identity is None:
            yield f"{shown}: neither a plain file nor a folder; a store holds no links"
        elif name not in sizes:
            if name not in timed:
                yield f"{shown}: does not belong to this store; remove it"
        elif sizes[name] not in (None, identity.n_bytes):
            yield f"{name}: {identity.n_bytes} bytes instead of {sizes[name]}; fetch the file again"


def _folders_of(names: Iterable[str]) -> set[str]:
    """Every folder on the way to a file, by path; plain text, because a store may have a million files."""
    folders = {"."}
    fresh = {name.rpartition("/")[0] for name in names} - {""}
    while fresh:
        folders |= fresh
        fresh = {folder.rpartition("/")[0] for folder in fresh} - folders - {""}
    return folders


def _walk(store: Path, folder: str, expected: set[str]) -> Iterator[tuple[str, Identity | None]]:
    """Files and unexpected folders, but what is being staged, with their identities; None where it is neither."""
    with os.scandir(store / folder) as entries:
        for entry in entries:
            name = entry.name if folder == "." else f"{folder}/{entry.name}"
            if entry.is_symlink() or not (entry.is_dir() or entry.is_file()):
                yield name, None
            elif entry.is_file():
                yield name, identity_of(entry.stat())
            elif name in expected:
                yield from _walk(store, name, expected)
            elif name != STAGING:  # a folder of nobody's: what lies in it, and how deep, does not matter
                yield name, identity_of(entry.stat())
