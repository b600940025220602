"""Stores of version 1, made by the program of that time, are used as before; what is derived from them is version 2."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import support.version_1 as version_1
from strata_sae.stores import ActivationStore, Batches, StoreError, read_plan, verify
from strata_sae.stores.deriving.shuffle import shuffle_store
from strata_sae.stores.deriving.slice import slice_store
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.format.commits import commit_name, commit_path
from strata_sae.stores.format.encodings import to_float32
from strata_sae.stores.format.vocabulary import Token
from strata_sae.stores.front.verifying import verified_level
from strata_sae.stores.remote.pull import pull
from strata_sae.stores.remote.push import push
from strata_sae.stores.writing.finishing import finish_store, recover
from support.small_store import fill_unit

SITE = "blocks.1.hook_mlp_out"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return version_1.unpack(tmp_path_factory.mktemp("old"))


@pytest.fixture(params=version_1.STORES)
def store(request: pytest.FixtureRequest, made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / request.param, tmp_path / "store"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def served(store: ActivationStore) -> list[np.ndarray]:
    with Batches(store, SITE, batch_size=16, window_rows=128, seed=3, threads=1) as batches:
        return [batches.batch(step)[1].copy() for step in range(40)]


def test_it_opens_verifies_and_serves_what_was_written(store: Path) -> None:
    assert verify(store) == verify(store, deep=True) == []
    assert "norms" in verified_level(store, deep=False)
    opened = ActivationStore.open(store)
    assert opened.plan.version == 1
    for site in version_1.SITES:
        found_NM = opened.float_rows(site, 0, version_1.N_ROWS)
        expected_NM = to_float32(version_1.rows_written(site, opened.plan.encoding))
        if opened.plan.encoding == "int8":
            np.testing.assert_allclose(found_NM, expected_NM, atol=0.02 * np.abs(expected_NM).max())
        else:
            np.testing.assert_array_equal(found_NM, expected_NM)
    assert len({tuple(numbers.tolist()) for numbers in served(opened)}) == 40


def test_its_tokens_are_the_text_it_has(store: Path) -> None:
    opened = ActivationStore.open(store)
    assert opened.tokens[0] == Token(b"<bos>", special=False)  # it does not say so
    assert opened.vocabulary[7] == " w7"
    assert opened.text(0, 3) == b"<bos> w8 w15"
    with pytest.raises(StoreError, match=r"has no extras/token_bytes\.json; it holds none"):
        opened.extra("token_bytes.json")


def test_what_is_derived_from_it_is_version_2(store: Path, tmp_path: Path) -> None:
    old = ActivationStore.open(store)
    sliced = slice_store(old, tmp_path / "sliced")
    shuffled = shuffle_store(old, tmp_path / "shuffled", seed=1, bucket_rows=64)
    for path in (sliced.path, shuffled.path):
        assert read_plan(path).version == 2
        assert (path / "commits/000/000000.json").is_file()
        assert verify(path, deep=True) == []
    assert sliced.tokens == {number: old.tokens[number] for number in sliced.tokens}
    np.testing.assert_array_equal(sliced.rows(SITE, 0, 300), old.rows(SITE, 0, 300))
    np.testing.assert_array_equal(served(sliced), served(old))  # a slice of all rows keeps their order


def test_it_is_shared_as_it_is(store: Path, tmp_path: Path) -> None:
    push(store, tmp_path / "pushed")
    pull(tmp_path / "pushed", tmp_path / "pulled")
    assert files_of(tmp_path / "pulled") == files_of(store)


def test_one_that_was_begun_is_finished_as_it_would_have_been(store: Path) -> None:
    whole, plan = files_of(store), read_plan(store)
    (store / "MANIFEST.json").unlink()
    commit_path(store, plan, 1).unlink()
    for name in plan.unit_files(1):
        (store / name).unlink()
    with pytest.raises(StoreError, match=f"unfinished .* {plan.n_units - 1} of {plan.n_units} units"):
        ActivationStore.open(store)
    assert recover(FileSystem(), store, plan) == [1]
    rows = {site: version_1.rows_written(site, plan.encoding) for site in plan.sites}
    fill_unit(FileSystem(), store, plan, 1, rows)
    finish_store(FileSystem(), store, plan)
    assert files_of(store) == whole
    assert commit_name(plan, 1) == "commits/000001.json"
