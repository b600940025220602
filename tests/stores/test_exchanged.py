"""A file in another's place is seen: by both levels of `verify`, and before a byte of it is used.

Every pair of files of a store is exchanged, as the plan lists them; what the plan does not list fails the test.
"""

import shutil
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import support.small_store as small_store
import support.version_1 as version_1
from strata_sae.stores import ActivationStore, Batches, StoreError, read_plan, verify
from strata_sae.stores.format.commits import commit_name, keys
from strata_sae.stores.format.plan import MANIFEST, PLAN
from strata_sae.stores.reading import array, site_rows
from strata_sae.stores.reading.array import ChunkRecords, FileHashes, NormRecords
from strata_sae.stores.writing.planning import create_store
from support.lying_server import LyingServer, serving
from support.small_store import build_store

SITES = {"blocks.1.hook_mlp_out": 8, "blocks.10.hook_mlp_out": 8}
FORMATS = {
    "bfloat16": {"encoding": "bfloat16"},
    "planes": {"encoding": "bfloat16", "compressor": "planes"},
    "int8": {"encoding": "int8"},
}
STORES = [*FORMATS, *(f"version 1, {name}" for name in version_1.STORES)]
SMALLEST_SITE_FILES = 6  # of equal size and other content, in every one of these stores


def random_tokens(n_rows: int, document_rows: int = 0) -> dict[str, np.ndarray]:
    """Token map whose `token_id` and `position` compress to the same size."""
    rng = np.random.default_rng(0)
    fields = {"token_id": (np.int32, 2**31 - 1), "document": (np.int64, 99), "position": (np.int32, 2**31 - 1)}
    made = {name: rng.integers(0, highest, n_rows).astype(dtype) for name, (dtype, highest) in fields.items()}
    return made | {"flags": (np.arange(n_rows) % 37 == 0).astype(np.uint8)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exchanged")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(small_store, "token_map", random_tokens)
        extras = {"labels.json": b"1" * 40, "truth.json": b"2" * 40, "unembedding.safetensors": b"3" * 50}
        patched.setattr(small_store, "create_store", lambda *a, **k: create_store(*a, extras=extras, **k))
        for name, options in FORMATS.items():
            build_store(folder / name, 180, SITES, chunk_bytes=512, shard_bytes=1024, **options)
    for name in version_1.unpack(folder / "old").iterdir():
        shutil.move(name, folder / f"version 1, {name.name}")
    return folder


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / request.param, tmp_path / "store"))


def kinds_of(store: Path) -> dict[str, str]:
    """Every file of a store by what it is, from the plan."""
    plan = read_plan(store)
    found = {PLAN: "plan", MANIFEST: "MANIFEST"} | dict.fromkeys(plan.metadata_files(), "zarr.json")
    for spec in plan.arrays():
        found |= dict.fromkeys(spec.shard_paths(), spec.path.split("/")[-1])
    found |= {name: "extras" for name in plan.files if name not in found}
    found |= {commit_name(plan, key): "commits" for key in keys(plan)}
    return found | {f"statistics/{site}.json": "statistics" for site in plan.sites}


def pairs_of(store: Path) -> list[tuple[str, str]]:
    """All pairs of equal size and other bytes, and of every two kinds one pair of other sizes."""
    kinds = kinds_of(store)
    on_disk = {str(path.relative_to(store)) for path in store.rglob("*") if path.is_file()}
    assert set(kinds) == on_disk, "a file that this test does not know"
    data = {name: (store / name).read_bytes() for name in kinds}
    found, of_kinds = [], set()
    for first, second in combinations(sorted(kinds), 2):
        of_two = frozenset((kinds[first], kinds[second]))
        if data[first] != data[second] and (len(data[first]) == len(data[second]) or of_two not in of_kinds):
            found.append((first, second))
            of_kinds.add(of_two)
    return found


def exchange(store: Path, first: str, second: str) -> None:
    (store / first).rename(store / "x")
    (store / second).rename(store / first)
    (store / "x").rename(store / second)


def exchanges(store: Path) -> Iterator[str]:
    """Exchange each pair of files, wait, and put them back."""
    for first, second in pairs_of(store):
        exchange(store, first, second)
        yield f"{first} and {second}"
        exchange(store, first, second)


def used(store: Path | str, io: str = "mmap") -> dict[str, bytes]:
    """All that a reader can be given of a store."""
    opened = ActivationStore.open(store, io=io)
    n_rows = opened.plan.n_rows
    found = {field: opened.token_map(field, 0, n_rows).tobytes() for field in opened.plan.token_specs}
    for site in opened.plan.sites:
        found[site] = opened.rows(site, 0, n_rows).tobytes()
        found[f"{site} norms"] = opened.norms(site, 0, n_rows).tobytes()
        found[f"{site} statistics"] = repr(opened.statistics(site)).encode()
    found |= {name: opened.extra(name) for name in opened.extras}
    return found | {"tokens": repr(opened.tokens).encode(), "summary": repr(opened.summary()).encode()}


def is_used(store: Path | str, io: str = "mmap") -> bool:
    try:
        used(store, io)
    except StoreError:
        return False
    return True


def test_every_exchange_is_seen_at_each_level_and_before_its_bytes_are_used(store: Path) -> None:
    assert verify(store) == verify(store, deep=True) == []
    honest = used(store)
    n_exchanges = 0
    for what in exchanges(store):
        assert verify(store), f"verify did not see {what}"
        assert verify(store, deep=True), f"verify --deep did not see {what}"
        for io in ("mmap", "pread"):
            assert not is_used(store, io), f"{io} used {what}"
        n_exchanges += 1
    assert used(store) == honest
    print(f"{n_exchanges} exchanges, all seen")


def test_control_without_the_check_the_bytes_of_other_places_are_used(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = used(store)
    monkeypatch.setattr(array.StoredArray, "_check_place", lambda *_: None)
    monkeypatch.setattr(site_rows.NormCheckedRows, "_check", lambda *_: None)
    for records in (ChunkRecords, FileHashes, NormRecords):
        monkeypatch.setattr(records, "shard_matches", lambda *_: True)
    taken = []
    for what in exchanges(store):
        if "/c/" in what.split()[0] and "/c/" in what.split()[-1]:
            try:
                if used(store) != honest:
                    taken.append(what)
            except StoreError:  # of another size, or columns that no int8 store can have
                continue
    assert len(taken) >= SMALLEST_SITE_FILES
    print(f"{len(taken)} exchanges would be taken, as {taken[0]}")


def test_token_fields_of_equal_size_are_among_them(made: Path) -> None:
    sizes = {
        field: (made / "bfloat16/activations.zarr/tokens" / field / "c/0").stat().st_size for field in random_tokens(1)
    }
    assert sizes["token_id"] == sizes["position"]


def epoch(store: Path, site: str) -> None:
    """Train on every row, as far as the store goes."""
    with Batches(ActivationStore.open(store), site, batch_size=16, threads=1) as batches:
        for step in range(2 * batches.n_rows // 16):
            batches.batch(step)


@pytest.mark.parametrize("name", STORES)
def test_training_refuses_what_was_exchanged_of_its_site(made: Path, tmp_path: Path, name: str) -> None:
    store = Path(shutil.copytree(made / name, tmp_path / "store"))
    site = next(iter(SITES))
    epoch(store, site)
    arrays = [path for path in kinds_of(store) if f"/{site}/" in path and "/c/" in path and "/norm/" not in path]
    n_exchanges = 0
    for first, second in pairs_of(store):
        if first in arrays and second in arrays and first.split("/")[3] == second.split("/")[3]:
            exchange(store, first, second)
            with pytest.raises(StoreError, match=site):
                epoch(store, site)
            exchange(store, first, second)
            n_exchanges += 1
    assert n_exchanges


def test_a_chunk_in_the_place_of_another_is_seen(made: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(made / "bfloat16", tmp_path / "store"))
    spec = read_plan(store).site_specs["blocks.1.hook_mlp_out"]["values"]
    path = store / spec.shard_path(0)
    data = path.read_bytes()
    size = spec.rows_per_chunk * 16 + 4
    path.chmod(0o644)
    path.write_bytes(data[size : 2 * size] + data[:size] + data[2 * size :])
    assert verify(store)
    assert verify(store, deep=True)
    with pytest.raises(StoreError, match=r"rows 0\.\.31 is not the one that was written there"):
        ActivationStore.open(store).rows("blocks.1.hook_mlp_out", 0, 10)


def test_a_shard_of_another_store_of_the_same_plan_is_seen(made: Path, tmp_path: Path) -> None:
    """Made on a machine that rounds otherwise, for one: every size is equal."""
    store = Path(shutil.copytree(made / "bfloat16", tmp_path / "store"))
    with pytest.MonkeyPatch.context() as patched:
        original = small_store.stored_rows
        patched.setattr(small_store, "stored_rows", lambda *a: original(*a) + np.uint16(1))
        other = build_store(tmp_path / "other", 180, SITES, chunk_bytes=512, shard_bytes=1024, encoding="bfloat16")
    for name in ("values", "norm"):
        path = read_plan(store).site_specs["blocks.1.hook_mlp_out"][name].shard_path(1)
        exchanged = Path(shutil.copytree(store, tmp_path / name))
        (exchanged / path).unlink()
        shutil.copy(other / path, exchanged / path)
        assert verify(exchanged)
        with pytest.raises(StoreError, match=path):
            used(exchanged)


@pytest.mark.parametrize("name", ["bfloat16", "version 1, bfloat16-none"])
def test_over_a_network_too(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("STRATA_CACHE", str(tmp_path / "cache"))
    store = Path(shutil.copytree(made / name, tmp_path / "store"))
    n_exchanges = 0
    for first, second in pairs_of(store):
        if not (
            "/c/" in first and "/c/" in second and (store / first).stat().st_size == (store / second).stat().st_size
        ):
            continue
        exchange(store, first, second)
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        with serving(LyingServer(store)) as server:
            assert not is_used(server.url, "auto")
        exchange(store, first, second)
        n_exchanges += 1
        if n_exchanges == 12:
            break
    assert n_exchanges == 12
