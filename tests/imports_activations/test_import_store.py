"""Cached activations of other programs become stores: equal rows, the token map where there is one, and in pieces."""

import ctypes
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
import yaml
from typer.testing import CliRunner

from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.imports.activations import ACTIVATION_FORMATS, arrow_files, read_activations
from strata_sae.pipeline.imports.activations.import_store import Asked, import_store
from strata_sae.stores import ActivationStore, StoreError, verify, write_store
from strata_sae.stores.files.hashing import file_sha256
from strata_sae.stores.writing.units import UnitWriter
from support.foreign_activations import CACHES, LENGTH, OTHER, SITE, WIDTH, Cache, made_ids, made_rows, npy
from support.killed_deriving import FORK
from support.small_run import TOPK, run_data


def ignore(_: int) -> None:
    """Progress of no interest."""


def imported(source: Path, out: Path, **asked: Any) -> ActivationStore:
    return import_store(source, out, Asked(**asked), announce=ignore, advance=ignore).store


@pytest.fixture(params=list(CACHES))
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Cache:
    return CACHES[request.param](tmp_path / "cache")


def check(store: ActivationStore, cache: Cache) -> None:
    assert verify(store.path, deep=True) == []
    assert set(store.plan.sites) == set(cache.rows)
    n_rows = store.plan.n_rows
    for site, rows_NM in cache.rows.items():
        stored_NM, _ = store.coded_rows(site, 0, n_rows)
        assert stored_NM.dtype == rows_NM.dtype
        np.testing.assert_array_equal(stored_NM, rows_NM)
    for field, values_N in cache.tokens.items():
        np.testing.assert_array_equal(store.token_map(field, 0, n_rows), values_N)


def test_every_format_is_tested() -> None:
    assert set(CACHES) == set(ACTIVATION_FORMATS)


def test_rows_and_tokens_are_those_of_the_files(cache: Cache, tmp_path: Path) -> None:
    store = imported(cache.path, tmp_path / "store")
    check(store, cache)
    assert store.plan.n_documents == len(np.unique(cache.tokens["document"]))
    start, _ = store.plan.splits["heldout"]
    assert 0 < start < store.plan.n_rows
    assert cache.tokens["document"][start] != cache.tokens["document"][start - 1], "no document is cut"


def test_the_plan_says_where_the_rows_come_from(cache: Cache, tmp_path: Path) -> None:
    provenance = imported(cache.path, tmp_path / "store").plan.provenance
    recorded = provenance["imported"]
    assert recorded["files"] == {name: file_sha256(cache.path / name) for name in recorded["files"]}
    assert len(recorded["files"]) >= 2
    assert provenance.get("model", {}).get("model") == cache.model
    assert "/somebody" not in json.dumps(provenance), "no path of a machine"


@pytest.mark.parametrize("name", CACHES)
def test_a_format_is_known_by_its_files_and_taken_for_no_other(tmp_path: Path, name: str) -> None:
    cache = CACHES[name](tmp_path / "cache")
    assert read_activations(cache.path, None).format == name
    for other in set(CACHES) - {name}:
        with pytest.raises(ConfigError, match=str(cache.path)):
            read_activations(cache.path, other)


def test_a_shard_of_saev_without_examples_is_passed_over(tmp_path: Path) -> None:
    """Its writer opens the next shard as soon as one is full."""
    cache = CACHES["saev"](tmp_path / "cache", n_examples=10)
    assert (cache.path / "acts000002.bin").is_file()
    check(imported(cache.path, tmp_path / "s"), cache)


def test_other_number_formats_are_kept(tmp_path: Path) -> None:
    made = {
        "a": CACHES["saelens"](tmp_path / "a", dtype="float16"),
        "b": CACHES["dictionary_learning"](tmp_path / "b", dtype=torch.float32),
        "c": CACHES["activault"](tmp_path / "c", dtype=torch.float16),
    }
    for name, cache in made.items():
        check(imported(cache.path, tmp_path / "stores" / name), cache)


def test_equal_files_elsewhere_give_an_equal_store_and_another_byte_another(tmp_path: Path) -> None:
    cache = npy(tmp_path / "one")
    first = imported(cache.path, tmp_path / "a")
    shutil.copytree(cache.path, tmp_path / "two" / SITE)
    assert imported(tmp_path / "two" / SITE, tmp_path / "b").id == first.id
    np.save(tmp_path / "two" / SITE / "part_0.npy", -np.load(cache.path / "part_0.npy"))
    assert imported(tmp_path / "two" / SITE, tmp_path / "c").plan.id != first.plan.id
    with pytest.raises(StoreError, match="another plan"):
        imported(tmp_path / "two" / SITE, tmp_path / "a")
    assert verify(first.path, deep=True) == []


def test_rows_without_tokens_are_documents_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "acts").mkdir()
    rows_NM = made_rows(0, (60, WIDTH))
    np.save(tmp_path / "acts" / "a.npy", rows_NM)
    with pytest.raises(ConfigError, match="for example --site blocks"):
        imported(tmp_path / "acts", tmp_path / "s")
    store = imported(tmp_path / "acts", tmp_path / "s", sites=[SITE])
    assert (store.plan.n_documents, store.plan.splits["heldout"]) == (60, (54, 60))
    in_fours = imported(tmp_path / "acts", tmp_path / "t", sites=[SITE], context=4, heldout=0.5)
    np.testing.assert_array_equal(in_fours.token_map("document", 0, 60), np.repeat(np.arange(15), 4))
    assert in_fours.plan.splits["heldout"] == (32, 60)
    assert imported(tmp_path / "acts", tmp_path / "u", sites=[SITE], encoding="int8").plan.encoding == "int8"


def test_sites_are_renamed_and_bos_is_marked(tmp_path: Path) -> None:
    cache = CACHES["safetensors"](tmp_path / "cache")
    store = imported(cache.path, tmp_path / "s", sites=[f"{SITE}=blocks.7.hook_mlp_out"], bos=3)
    assert set(store.plan.sites) == {"blocks.7.hook_mlp_out", OTHER}
    np.testing.assert_array_equal(store.token_map("flags", 0, 48), cache.tokens["token_id"] == 3)
    assert (cache.tokens["token_id"] == 3).any()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "format": ({"format": "sealens"}, "did you mean 'saelens'"),
    "site": ({"sites": ["x"]}, "is not THEIRS=NAME"),
    "no such site": ({"sites": ["blocks.9.hook_resid_post=x"]}, "the files have"),
    "one name twice": ({"sites": [f"{SITE}={OTHER}"]}, "one name"),
    "a name no store allows": ({"sites": [f"{SITE}=../x"]}, "not allowed"),
    "context": ({"context": 4}, "leave it out"),
    "encoding": ({"encoding": "float8"}, "float8"),
    "heldout": ({"heldout": 1.0}, "no share"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_asked_must_fit_the_files(tmp_path: Path, name: str) -> None:
    cache = CACHES["safetensors"](tmp_path / "cache")
    asked, message = WRONG[name]
    with pytest.raises((ConfigError, StoreError), match=message):
        imported(cache.path, tmp_path / "s", **asked)
    assert not (tmp_path / "s").exists()


def test_an_import_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(*arguments: Any, **options: Any) -> ActivationStore:
        return write_store(*arguments, chunk_bytes=80, shard_bytes=320, **options)

    monkeypatch.setattr("strata_sae.pipeline.imports.activations.import_store.write_store", small)
    cache, commit, calls = CACHES["saev"](tmp_path / "cache"), UnitWriter.commit, []

    def counted(self: UnitWriter) -> bool:
        calls.append(self)
        return commit(self)

    def dies_at_the_second(self: UnitWriter) -> bool:
        return os._exit(9) if len(calls) == 1 else counted(self)

    monkeypatch.setattr(UnitWriter, "commit", dies_at_the_second)
    child = FORK.Process(target=imported, args=(cache.path, tmp_path / "s"))
    child.start()
    child.join()
    assert child.exitcode == 9
    with pytest.raises(StoreError, match="unfinished"):
        ActivationStore.open(tmp_path / "s")
    monkeypatch.setattr(UnitWriter, "commit", counted)
    store = imported(cache.path, tmp_path / "s")
    assert store.plan.n_units > 2
    assert len(calls) == store.plan.n_units - 1, "what was committed is not written again"
    check(store, cache)


def test_no_more_than_some_megabytes_are_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: 24 MiB of rows and their token ids go through pieces of a chunk."""
    (tmp_path / SITE).mkdir()
    rows_NM = made_rows(0, (96 * 1024, 64))
    np.save(tmp_path / SITE / "a.npy", rows_NM)
    np.save(tmp_path / SITE / "token_ids.npy", np.zeros(len(rows_NM), np.int64))
    sizes, read = [], os.preadv

    def counted(descriptor: int, buffers: list[memoryview], at: int) -> int:
        sizes.append(sum(len(buffer) for buffer in buffers))
        return read(descriptor, buffers, at)

    monkeypatch.setattr(os, "preadv", counted)
    store = imported(tmp_path / SITE, tmp_path / "store")
    assert max(sizes) <= 2 * 2**20
    assert sum(sizes) < 2 * rows_NM.nbytes, "rows are read once, and the token map a few times"
    np.testing.assert_array_equal(store.rows(SITE, 90_000, 90_010), rows_NM[90_000:90_010])


def one_large_file(folder: Path, format: str) -> None:
    """64 MiB of rows in one file, of a format whose files are mapped."""
    n_contexts, length, width = 64, 256, 1024
    if format == "activault":
        (folder / SITE).mkdir(parents=True)
        found = {"states": torch.ones(n_contexts, length, width), "input_ids": torch.zeros(n_contexts, length).long()}
        torch.save(found, folder / SITE / "a--1_0.saved.pt")
        about = {"batch_size": n_contexts, "sequence_length": length, "dtype": "torch.float32", "d_in": width}
        (folder / SITE / "metadata.json").write_text(json.dumps(about | {"batches_per_file": 1}))
        return
    folder.mkdir()
    values = pyarrow.array(np.ones(n_contexts * length * width, np.float32))
    rows = pyarrow.ListArray.from_arrays(np.arange(n_contexts * length + 1, dtype=np.int32) * width, values)
    batch = {SITE: pyarrow.ListArray.from_arrays(np.arange(n_contexts + 1, dtype=np.int32) * length, rows)}
    table = pyarrow.table(batch)
    with pyarrow.OSFile(str(folder / "a.arrow"), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    features = {SITE: {"shape": [length, width], "dtype": "float32", "_type": "Array2D"}}
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "a.arrow"}]}))


def own_bytes() -> int:
    """Memory of this process that no file lies behind; what it has freed is given back before it is counted."""
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def test_control_memory_of_its_own_is_seen() -> None:
    freed = np.ones(2**25, np.uint8)  # what the allocator keeps of it does not hide what is held next
    del freed
    before = own_bytes()
    held = np.ones(2**25, np.uint8)
    assert own_bytes() - before > 16 * 2**20, held.shape


@pytest.mark.parametrize("format", ["saelens", "activault"])
def test_a_mapped_file_is_never_in_memory(tmp_path: Path, format: str) -> None:
    """Counted at every piece: a quarter of the one file would be too much."""
    one_large_file(tmp_path / "cache", format)
    before, held = own_bytes(), []
    asked = Asked(format=format)
    import_store(tmp_path / "cache", tmp_path / "s", asked, announce=ignore, advance=lambda _: held.append(own_bytes()))
    assert len(held) > 8
    assert max(held) - before < 16 * 2**20


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = npy(tmp_path / "cache")

    def writing(*arguments: Any, **options: Any) -> ActivationStore:
        with (cache.path / "part_1.npy").open("ab") as file:
            file.write(b"more")
        return write_store(*arguments, **options)

    monkeypatch.setattr("strata_sae.pipeline.imports.activations.import_store.write_store", writing)
    with pytest.raises(ConfigError, match="was changed while it was read"):
        imported(cache.path, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_the_command_imports_trains_and_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "acts").mkdir()
    for number in range(3):
        np.save(tmp_path / "acts" / f"{number}.npy", made_rows(number, (100, LENGTH, 16)))
    np.save(tmp_path / "acts" / "token_ids.npy", made_ids((300, LENGTH)))

    def strata(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["--quiet", *arguments])

    done = strata("store", "import", "acts", "data/theirs", "--site", SITE, "--bos", "0")
    assert done.exit_code == 0, done.output
    assert "1,200 rows of 300 documents" in done.stdout
    data = run_data(tmp_path / "data" / "theirs", {"topk": TOPK}, n_steps=20)
    config = {key: value for key, value in data.items() if key not in ("model", "corpus")}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    for command in ("train", "evaluate", "report"):
        result = strata(command, "run.yaml")
        assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / f"runs/run/variants/topk@{SITE}/metrics.json").read_text())
    assert metrics
    assert (tmp_path / "runs/run/report.html").is_file()
    inside = strata("store", "import", "acts", "acts/store", "--site", SITE)
    assert (inside.exit_code, len(inside.stderr.splitlines())) == (2, 1)
    nowhere = strata("store", "import", "nowhere", "out")
    assert (nowhere.exit_code, nowhere.stderr.splitlines()) == (
        2,
        ["nowhere: no such folder; give the one that the files lie in"],
    )


def test_without_pyarrow_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = CACHES["saelens"](tmp_path / "cache")
    monkeypatch.setattr(arrow_files, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'strata-sae\[extract\]'"):
        imported(cache.path, tmp_path / "s")


def test_a_link_that_stays_in_the_folder_is_followed(tmp_path: Path) -> None:
    cache = npy(tmp_path / "cache")
    (cache.path / "blobs").mkdir()
    (cache.path / "part_1.npy").rename(cache.path / "blobs" / "a")
    (cache.path / "part_1.npy").symlink_to(cache.path / "blobs" / "a")
    check(imported(cache.path, tmp_path / "s"), cache)


def test_the_page_and_the_help_name_every_format() -> None:
    page = (Path(__file__).parents[2] / "docs/store.md").read_text(encoding="utf-8")
    shown = CliRunner().invoke(app, ["store", "import", "--help"]).stdout
    for name in ACTIVATION_FORMATS:
        assert f"| `{name}` |" in page
        assert name in shown
