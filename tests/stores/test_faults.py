"""D1, D2: a damaged store is refused by name, and no damage to its bytes goes unseen.

Set STRATA_BIT_FLIPS for more flips.
"""

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from strata_sae.stores import ActivationStore, Batches, Filters, StoreError, verify
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.format.plan import TIMINGS
from strata_sae.stores.format.plan_file import read_plan
from strata_sae.stores.front import verifying
from strata_sae.stores.reading import array
from strata_sae.stores.writing.finishing import write_timing
from support.small_store import build_store, stored_rows

N_FLIPS = int(os.environ.get("STRATA_BIT_FLIPS", "500"))
N_ROWS = 400
SITES = {"blocks.0.hook_resid_post": 8, "blocks.1.hook_resid_post": 8}
SITE = "blocks.0.hook_resid_post"


@pytest.fixture(params=["none", "zstd"])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A store that can be damaged, with an untouched copy in `original_of`."""
    path = build_store(tmp_path / "store", N_ROWS, SITES, shard_bytes=4096, compressor=request.param)
    for unit in range(read_plan(path).n_units):
        write_timing(FileSystem(), path, unit, 128, 1.5 + unit)
    for file in files_of(path):
        file.chmod(0o644)
    shutil.copytree(path, tmp_path / "original")
    assert verify(path, deep=True) == []
    return path


def files_of(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def original_of(store: Path, file: Path) -> Path:
    return store.with_name("original") / file.relative_to(store)


def restore(store: Path, file: Path) -> None:
    if file.is_dir() and not file.is_symlink():
        file.rmdir()
    file.unlink(missing_ok=True)
    shutil.copy(original_of(store, file), file)


def folder_instead(file: Path, original: Path) -> None:
    file.unlink()
    file.mkdir()


def link_instead(file: Path, original: Path) -> None:
    file.unlink()
    file.symlink_to(original)


def pipe_instead(file: Path, original: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def cut_to(n_bytes: int) -> Callable[[Path, Path], None]:
    return lambda file, original: os.truncate(file, n_bytes)


def damages(file: Path) -> Iterator[tuple[str, Callable[[Path, Path], None]]]:
    """Everything that can happen to a file whose size or kind changes."""
    n_bytes = file.stat().st_size
    yield "missing", lambda file, original: file.unlink()
    yield "empty", cut_to(0)
    # Around the edges of a chunk, of a shard's index, and anywhere.
    for cut in sorted({1, n_bytes // 2, n_bytes - 1, n_bytes - 4, n_bytes - 36, 2048, 2052}):
        if 0 < cut < n_bytes:
            yield f"cut to {cut}", cut_to(cut)
    yield "grown", cut_to(n_bytes + 1)
    yield "folder", folder_instead
    yield "link", link_instead
    yield "pipe", pipe_instead


def find_by_opening(path: Path) -> str:
    try:
        ActivationStore.open(path)
    except StoreError as error:
        return str(error)
    return ""


def test_every_file_missing_empty_cut_grown_or_replaced_is_named(store: Path) -> None:
    seen: Counter[str] = Counter()
    for file in files_of(store):
        name = str(file.relative_to(store))
        for kind, damage in list(damages(file)):
            damage(file, original_of(store, file))
            # Timings are no part of a store's identity: they may be missing, and only a deep check reads them.
            message = find_by_opening(store) or "\n".join(verify(store, deep=True))
            if not (kind == "missing" and TIMINGS in file.parts):
                assert name in message, f"{name} {kind}: {message!r}"
                assert TIMINGS in file.parts or find_by_opening(store), f"{name} {kind}: opening did not see it"
            seen[kind.split()[0]] += 1
            restore(store, file)
    assert verify(store, deep=True) == []
    print(f"{len(files_of(store))} files, {sum(seen.values())} damages: {dict(seen)}")


def test_extra_files_and_folders_in_place_of_files_are_named(store: Path) -> None:
    folders = [store, *(entry for entry in sorted(store.rglob("*")) if entry.is_dir() and entry.name != "staging")]
    for folder in folders:
        extra = folder / "extra"
        extra.write_bytes(b"x")
        message = find_by_opening(store) or "\n".join(verify(store, deep=True))
        assert str(extra.relative_to(store)) in message
        extra.unlink()
    assert verify(store, deep=True) == []


def test_files_swapped_with_others_of_equal_size_are_named(store: Path) -> None:
    by_size: dict[int, list[Path]] = {}
    for file in files_of(store):
        by_size.setdefault(file.stat().st_size, []).append(file)
    n_swaps = 0
    for group in by_size.values():
        for first in group:
            for second in group:
                if first >= second or first.read_bytes() == second.read_bytes():
                    continue
                shutil.copy(original_of(store, second), first)
                shutil.copy(original_of(store, first), second)
                message = "\n".join(verify(store, deep=True))
                assert str(first.relative_to(store)) in message or str(second.relative_to(store)) in message
                n_swaps += 1
                for file in (first, second):
                    shutil.copy(original_of(store, file), file)
    assert n_swaps >= 6
    print(f"{n_swaps} swaps of files of equal size")


def regions(store: Path) -> list[tuple[str, Path, range]]:
    """(kind, file, bytes) of every part of every file that has a meaning of its own."""
    plan = read_plan(store)
    shards = {
        store / spec.shard_path(shard): spec
        for specs in (plan.token_specs, *plan.site_specs.values())
        for spec in specs.values()
        for shard in range(spec.n_shards)
    }
    found = []
    for file in files_of(store):
        n_bytes = file.stat().st_size
        if file not in shards:
            kind = file.name if file.parent == store or file.name == "zarr.json" else file.parent.name
            found.append((kind, file, range(n_bytes)))
            continue
        index = n_bytes - 4 - 16 * shards[file].chunks_per_shard
        found += [("shard data", file, range(index - 4)), ("chunk crc", file, range(index - 4, index))]
        found += [("index", file, range(index, n_bytes - 4)), ("index crc", file, range(n_bytes - 4, n_bytes))]
    return found


def flips(store: Path, n_flips: int, kinds: set[str] | None = None) -> Iterator[tuple[str, Path]]:
    """Flip one bit, wait, flip it back; in turn over the kinds of regions, and over the files of a kind."""
    by_kind: dict[str, list[tuple[Path, range]]] = {}
    for kind, file, places in regions(store):
        by_kind.setdefault(kind, []).append((file, places))
    chosen = sorted(kinds or by_kind)
    rng = random.Random(5)
    for number in range(n_flips):
        kind = chosen[number % len(chosen)]
        file, places = by_kind[kind][number // len(chosen) % len(by_kind[kind])]
        data = bytearray(file.read_bytes())
        place = rng.choice(places)
        data[place] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
        yield kind, file
        shutil.copyfile(original_of(store, file), file)


def test_every_bit_flip_is_found_and_named(store: Path) -> None:
    seen: Counter[str] = Counter()
    for kind, file in flips(store, N_FLIPS):
        message = "\n".join(verify(store, deep=True))
        # A flip in one of the MANIFEST's hashes shows as its disagreement with the hashed file.
        assert (file.stem if file.parent == store else str(file.relative_to(store))) in message, f"{kind}: {message!r}"
        seen[kind] += 1
    assert len(seen) >= 10
    print(f"{sum(seen.values())} of {N_FLIPS} flips found: {dict(seen)}")


def test_without_hashes_the_same_flips_are_not_found(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "_hash_problems", lambda *_: iter(()))
    found = [bool(verify(store, deep=True)) for _ in flips(store, 40, {"shard data"})]
    assert not any(found)


def read_epoch(path: Path) -> int:
    """Wrong rows that training would be served in one epoch."""
    expected_NM = stored_rows(SITE, N_ROWS, SITES[SITE])
    filters = Filters(drop_bos=True, max_norm_multiple=4.0)
    wrong = 0
    with Batches(ActivationStore.open(path), SITE, filters=filters, batch_size=32, window_rows=128, threads=1) as some:
        for step in range(-(-some.n_rows // 32)):
            rows_BM, numbers_B = some.batch(step)
            wrong += int((rows_BM != expected_NM[numbers_B]).any(axis=1).sum())
    return wrong


SHARD_KINDS = {"shard data", "chunk crc", "index", "index crc"}


def test_training_never_reads_a_wrong_row_silently(store: Path) -> None:
    seen: Counter[str] = Counter()
    assert read_epoch(store) == 0
    for kind, file in flips(store, N_FLIPS, SHARD_KINDS):
        used = SITE in str(file) or file.parts[-3] == "flags"
        try:
            wrong, message = read_epoch(store), ""
        except StoreError as error:
            wrong, message = 0, str(error)
        assert wrong == 0, f"{kind} {file}"
        # Only the held-out rows' chunks, and what this training does not read, may be damaged unseen.
        assert str(file) in message if message else not used or "3" in (file.name, file.parent.name)
        seen["refused" if message else "harmless"] += 1
    assert seen["refused"] > N_FLIPS // 4
    print(f"{N_FLIPS} flips under training: {dict(seen)}")


def test_without_crc_training_would_read_wrong_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build_store(tmp_path / "store", N_ROWS, SITES, shard_bytes=4096)
    shutil.copytree(path, tmp_path / "original")
    for file in files_of(path):
        file.chmod(0o644)
    monkeypatch.setattr(array, "crc_matches", lambda encoded: True)
    wrong = []
    for _, file in flips(path, 200, {"shard data"}):
        if f"{SITE}/values" in str(file):
            wrong.append(read_epoch(path))
    print(f"{np.count_nonzero(wrong)} of {len(wrong)} flips serve wrong rows without crc")
    assert np.count_nonzero(wrong) >= 20
