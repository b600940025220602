"""The list of stores: whole, unfinished and damaged ones each in their line, and nothing opened."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from strata_sae.stores import ActivationStore, StoreError
from strata_sae.stores.deriving.slice import slice_store
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.format.plan import ARRAYS, COMMITS, PLAN
from strata_sae.stores.front.listing import list_stores, stores_table, summary_text
from support.small_store import fill_unit, plan_store, stored_rows

SITE = "blocks.1.hook_resid_post"


@pytest.fixture
def root(make_store: Callable[..., Path], tmp_path: Path) -> Path:
    made = make_store("whole", n_rows=1000, provenance={"model": {"model": "tiny"}})
    slice_store(ActivationStore.open(made), tmp_path / "part", rows=(0, 300), compressor="zstd")
    plan = plan_store(tmp_path / "begun", 1000)
    fill_unit(FileSystem(), tmp_path / "begun", plan, 1, {SITE: stored_rows(SITE, 1000, 16)})
    (tmp_path / "no store").mkdir()
    (tmp_path / "a file").write_text("")
    return tmp_path


def test_every_store_has_its_line(root: Path) -> None:
    rows = {row.name: row for row in list_stores(root)}
    whole = ActivationStore.open(root / "whole")
    assert list(rows) == ["begun", "part", "whole"]
    assert rows["begun"].state == f"unfinished 1/{whole.plan.n_units}"
    assert rows["begun"].age_seconds is None
    assert rows["whole"].state == whole.id[:12]
    assert rows["whole"].n_bytes == whole.summary()["total_bytes"]
    assert (rows["whole"].model, rows["whole"].sites, rows["whole"].n_rows) == ("tiny", (SITE,), 1000)
    assert rows["part"].lineage == f"slice of {whole.id[:12]}"
    text = stores_table(list(rows.values())).splitlines()
    assert len(text) == 4
    assert "float32/zstd" in text[2]
    assert [row.name for row in list_stores(root / "whole")] == ["whole"], "a store's own folder lists that store"


def test_the_age_is_the_manifests(root: Path) -> None:
    then = time.time() - 3 * 86400
    os.utime(root / "whole" / "MANIFEST.json", (then, then))
    (row,) = list_stores(root / "whole")
    assert row.age_seconds == pytest.approx(3 * 86400, abs=43200)
    assert "3 d" in stores_table([row])


@pytest.mark.parametrize("damage", [PLAN, f"{COMMITS}/000/000000.json", "MANIFEST.json"])
def test_a_damaged_store_is_a_line_and_no_error(root: Path, damage: str) -> None:
    path = root / "whole" / damage
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data.replace(b'"format"', b'"fromat"'))
    rows = {row.name: row for row in list_stores(root)}
    assert rows["whole"].state == "damaged"
    assert damage in rows["whole"].problem
    assert rows["part"].problem == ""
    assert "damaged: " in stores_table(list(rows.values()))


def test_a_store_without_its_plan_is_a_line(root: Path) -> None:
    (root / "whole" / PLAN).unlink()
    (row,) = [row for row in list_stores(root) if row.name == "whole"]
    assert "not an activation store" in row.problem


def test_nothing_is_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [row.state for row in list_stores(root)]
    for path in (root / "whole" / ARRAYS).rglob("c/*"):
        if path.is_file():
            path.unlink()
    assert [row.state for row in list_stores(root)] == expected


def test_a_missing_root_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such folder"):
        list_stores(tmp_path / "nowhere")


def test_a_store_is_described_in_words(root: Path) -> None:
    store = ActivationStore.open(root / "part")
    text = summary_text(store.summary())
    for expected in (store.id, "300 of 9 documents", "float32, compressor zstd", SITE, "slice of"):
        assert expected in text
