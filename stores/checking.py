"""Is a store what its MANIFEST says? The stat pass that opening makes, and the hashing that `verify --deep` adds."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from stores.canonical import file_sha256, parse_canonical, read_plain, sha256
from stores.descriptions import read_vocabulary, statistics_problem
from stores.errors import StoreError
from stores.finishing import FORMAT
from stores.format import COMMITS, MANIFEST, PLAN, STAGING, STATISTICS, TIMINGS, VERSION, VOCABULARY
from stores.identity import Identity, identity_of
from stores.os_errors import explain
from stores.plan import Plan, read_plan
from stores.sizes import largest_shard_bytes, shard_bytes
from stores.timings import read_timing
from stores.units import commit_name, commit_path, keys, parse_commit, read_commit

_SHOWN = 5


def read_manifest(store: Path, plan: Plan) -> tuple[str, dict[str, str]]:
    """The store id, and the hashes of commit records and statistics by path.

    Raises: StoreError if the store is unfinished, or the MANIFEST is damaged or belongs to another plan.
    """
    path = store / MANIFEST
    try:
        data = read_plain(path)
    except FileNotFoundError:
        committed = sum(commit_path(store, unit).exists() for unit in range(plan.n_units))
        raise StoreError(
            f"{store}: unfinished (no {MANIFEST}), {committed} of {plan.n_units} units are there; "
            f"run extract again to fill the rest"
        ) from None
    value = parse_canonical(data, path)
    listed = {commit_name(key) for key in keys(plan)}
    listed |= {f"{STATISTICS}/{site}.json" for site in plan.sites}
    if (value.get("format"), value.get("version")) != (FORMAT, VERSION) or set(value) != {
        "files",
        "format",
        "plan_id",
        "version",
    }:
        raise StoreError(f"{path}: not a MANIFEST of version {VERSION}; the file is damaged, fetch it again")
    if value["plan_id"] != plan.id:
        raise StoreError(f"{path}: belongs to plan {value['plan_id']}, but {PLAN} is {plan.id}; one of them is damaged")
    if not isinstance(value["files"], dict) or set(value["files"]) != listed:
        raise StoreError(f"{path}: does not list the files of this plan; the file is damaged, fetch it again")
    return sha256(data), value["files"]


def check_opened(store: Path, plan: Plan, seen: dict[str, Identity] | None = None) -> str:
    """What opening checks: manifest, commit records, metadata, and the size of every file. Returns: the store id.

    `seen`: is told which file each name stood for, so that what is opened later can be compared.

    Raises: StoreError listing what is missing, extra, empty, truncated or not a plain file.
    """
    store_id, hashes = read_manifest(store, plan)
    sizes = _expected_sizes(store, plan, hashes)
    try:
        found = dict(_walk(store, ".", _folders_of(sizes) | {TIMINGS}))
    except OSError as error:
        raise StoreError(f"{error.filename or store}: cannot be looked at ({explain(error)})") from None
    problems = list(_compare(sizes, found))
    for name, data in plan.metadata_files().items():
        if not problems and (store / name).read_bytes() != data:
            problems.append(f"{name}: is not the metadata of this plan; fetch the file again")
    if problems:
        rest = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise StoreError(f"{store}: " + "\n  ".join(problems[:_SHOWN]) + rest)
    if _manifest_hash(store) != store_id:  # all that was looked at lies between these two readings
        raise StoreError(f"{store}: was replaced while it was opened; run the command again")
    if seen is not None:
        seen |= {name: identity for name, identity in found.items() if identity is not None}
    return store_id


def _manifest_hash(store: Path) -> str:
    try:
        return sha256(read_plain(store / MANIFEST))
    except FileNotFoundError:
        return ""


def verify(path: Path, deep: bool = False) -> list[str]:
    """Problems of a store, each with its file; none means it is whole. `deep` hashes every byte."""
    try:
        plan = read_plan(path)
        check_opened(path, plan)
    except StoreError as error:
        return [str(error)]
    return list(_hash_problems(path, plan)) if deep else []


def _expected_sizes(store: Path, plan: Plan, hashes: dict[str, str]) -> dict[str, int | None]:
    """Size of every file that must be there; None where only its hash is known, and was compared here."""
    sizes: dict[str, int | None] = {PLAN: len(plan.data), MANIFEST: None}
    sizes |= {name: len(data) for name, data in plan.metadata_files().items()}
    sizes |= {name: int(record["bytes"]) for name, record in plan.files.items()}
    for name in hashes:
        sizes[name] = None
        with suppress(FileNotFoundError):  # what is missing is reported together, below
            if name.startswith(f"{STATISTICS}/"):
                _read_listed(store / name, hashes[name])
    for key in keys(plan):
        path = commit_path(store, key)
        try:
            data = _read_listed(path, hashes[commit_name(key)])
        except FileNotFoundError:
            raise StoreError(f"{path}: missing; fetch the file again") from None
        record = parse_commit(data, path, plan, key)
        sizes |= {name: int(entry["bytes"]) for name, entry in record["files"].items()}
    _check_claims(store, plan, sizes)
    return sizes


def _read_listed(path: Path, expected: str) -> bytes:
    """A small file that the MANIFEST lists. Raises: FileNotFoundError; StoreError if it is not the one listed."""
    data = read_plain(path)
    if sha256(data) != expected:
        raise StoreError(f"{path}: its sha256 is not the MANIFEST's; fetch the file again")
    return data


def _check_claims(store: Path, plan: Plan, sizes: dict[str, int | None]) -> None:
    """No shard is larger than its rows need: what a plan and its commits claim is bounded before it is believed."""
    by_site = [plan.token_specs, *plan.site_specs.values(), *plan.column_specs.values()]
    for spec in (spec for specs in by_site for spec in specs.values()):
        for shard in range(spec.n_shards):
            claimed, needed = sizes[spec.shard_path(shard)] or 0, shard_bytes(spec, shard)
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


def _hash_problems(store: Path, plan: Plan) -> Iterator[str]:
    expected: dict[str, dict[str, Any]] = dict(plan.files)
    for key in keys(plan):
        record = read_commit(store, plan, key)
        expected |= record["files"] if record is not None else {}
    for name, entry in sorted(expected.items()):
        if file_sha256(store / name) != entry["sha256"]:
            yield f"{name}: its sha256 is not the recorded one; the file is damaged, fetch it again"
    yield from _description_problems(store, plan)
    for path in sorted((store / TIMINGS).glob("*")):
        try:
            read_timing(path)
        except StoreError as error:
            yield str(error)


def _description_problems(store: Path, plan: Plan) -> Iterator[str]:
    """What the vocabulary and the statistics say, beyond their hashes."""
    try:
        read_vocabulary(store / VOCABULARY)
        units = [read_commit(store, plan, unit) for unit in range(plan.n_units)]
        for site, d_model in plan.sites.items():
            path = store / STATISTICS / f"{site}.json"
            records = [record["statistics"][site] for record in units if record is not None]
            if problem := statistics_problem(path, records, d_model):
                yield f"{path.relative_to(store)}: {problem}"
    except StoreError as error:
        yield str(error)
